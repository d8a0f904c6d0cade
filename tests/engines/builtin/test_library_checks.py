"""Networks that OpenVINO computes otherwise than ncnn: which library is used, what is logged."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testkit.cpu_libraries import enlarge, files_of
from testkit.networks import (
    enlarged_plainly,
    photo,
    shipped,
    write_network,
    write_repeater,
)
from upscaled.engines.builtin import loader
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library
from upscaled.engines.builtin.loader import LibraryRejectedError, Loader
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    Pixels,
)
from upscaled.engines.builtin.openvino_network import OpenvinoNetwork
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.tile_plan import plan_on_cpu
from upscaled.engines.engine import ModelFiles
from upscaled.errors import ConfigError
from upscaled.pictures import Size


async def test_a_network_that_is_not_understood_goes_to_ncnn_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = write_network(
        tmp_path,
        "n",
        "Interp up 1 1 data large 0=1 1=2.0 2=2.0",
        "Clip cut 1 1 large output 0=0.0 1=1.0",
    )
    model = ModelFiles(model.param, model.bin, 2, "data", "output", 1000)
    pixels = photo(40, 30)
    with caplog.at_level(logging.WARNING):
        made, used = await enlarge(tmp_path, pixels, model)
    assert np.array_equal(made, enlarged_plainly(pixels, 2))
    assert used == await asyncio.to_thread(CpuLibrary.NCNN.with_version)
    assert "Clip is not a layer that is known. ncnn is used for n.param." in caplog.text


async def test_a_deep_network_is_run_in_32_bits_without_a_word(
    tmp_path: Path, models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for stem, expected in (
        ("realesrgan-x4plus", CpuLibrary.OPENVINO),
        ("realesrgan-x4plus-anime", CpuLibrary.OPENVINO_BF16),
    ):
        with caplog.at_level(logging.WARNING):
            _, used = await enlarge(
                tmp_path, photo(40, 30), shipped(models_dir, stem), CpuLibrary.OPENVINO_BF16
            )
        assert used == await asyncio.to_thread(expected.with_version)
    assert used.endswith(" in bfloat16")
    assert not caplog.records


async def test_where_bfloat16_shows_32_bits_are_used_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What the one in bfloat16 adds is taken off in 32 bits: 500.7 would be 500.
    model = write_network(
        tmp_path,
        "n",
        "Convolution a 1 1 data large 0=8 1=1 5=1 6=24",
        "Convolution b 1 1 large small 0=8 1=1 5=1 6=64",
        "Convolution c 1 1 small output 0=3 1=1 5=1 6=24",
    )
    first = np.eye(8, 3, dtype=np.float32)
    last = np.eye(3, 8, dtype=np.float32)
    nothing, more, less = (np.full(8, value, np.float32) for value in (0, 500.7, -500.7))
    weights = [(first, nothing), (np.eye(8, dtype=np.float32), more), (last, less[:3])]
    model.bin.write_bytes(
        b"".join(bytes(4) + kernel.tobytes() + bias.tobytes() for kernel, bias in weights)
    )
    model = ModelFiles(model.param, model.bin, 1, "data", "output", 1000)
    pixels = photo(40, 30)
    with caplog.at_level(logging.WARNING):
        made, used = await enlarge(tmp_path, pixels, model, CpuLibrary.OPENVINO_BF16)
    assert np.array_equal(made, pixels)
    assert used == await asyncio.to_thread(CpuLibrary.OPENVINO.with_version)
    assert "The picture by OpenVINO in bfloat16 differs from ncnn's (" in caplog.text
    assert " dB). OpenVINO in 32 bits is used for n.param." in caplog.text


def test_a_picture_that_differs_from_that_of_ncnn_is_not_trusted(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shipped(models_dir, "realesr-animevideov3-x2")
    identity = (("n.param", 1, 1),)
    plan = plan_on_cpu(
        model, 1 << 20, Size(64, 64), threads=2, limit=1 << 30, library=CpuLibrary.OPENVINO
    )
    run = OpenvinoNetwork.run

    def shifted(network: OpenvinoNetwork, pixels: Pixels) -> object:
        return np.roll(run(network, pixels), 1, axis=2)

    monkeypatch.setattr(OpenvinoNetwork, "run", shifted)
    loading = Loader(None, 2, CpuLibrary.OPENVINO)
    assert loading.library_for(identity) is CpuLibrary.OPENVINO
    with pytest.raises(
        LibraryRejectedError, match=r"differs from ncnn's \(\d+\.\d dB\)\. ncnn is used for"
    ):
        loading.load(files_of(model), identity, plan, threads=1)
    assert loading.library_for(identity) is CpuLibrary.NCNN
    with pytest.raises(
        LibraryRejectedError, match=r"ncnn is used for realesr-animevideov3-x2\.param"
    ):
        loading.load(files_of(model), identity, plan, threads=1)
    again = plan_on_cpu(model, 1 << 20, Size(64, 64), threads=2, limit=1 << 30)
    assert isinstance(loading.load(files_of(model), identity, again, threads=1), NcnnNetwork)


def test_both_are_compared_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_repeater(tmp_path, "n", 2)
    loaded: list[str] = []

    def counted(files: NetworkFiles, **options: Any) -> NcnnNetwork:
        loaded.append(files.param.name)
        return NcnnNetwork(files, **options)

    monkeypatch.setattr(loader, "NcnnNetwork", counted)
    plan = plan_on_cpu(
        model, 1 << 20, Size(64, 64), threads=2, limit=1 << 30, library=CpuLibrary.OPENVINO
    )
    loading = Loader(None, 2, CpuLibrary.OPENVINO)
    for threads in (1, 2):
        network = loading.load(files_of(model), (("n.param", 1, 1),), plan, threads=threads)
        assert isinstance(network, OpenvinoNetwork)
    assert len(loaded) == 1


def test_auto_takes_openvino_where_it_was_measured_to_be_quicker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old, newest = tmp_path / "new", tmp_path / "old", tmp_path / "newest"
    new.write_text("processor : 0\nflags : fpu avx2 avx512f avx512bw avx512_bf16\n")
    old.write_text("processor : 0\nflags : fpu avx2\n")
    newest.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f avx512bw amx_bf16 amx_tile\n")
    assert choose_library("auto", new) is CpuLibrary.OPENVINO
    assert choose_library("auto", newest) is CpuLibrary.OPENVINO_BF16
    assert choose_library("openvino", newest) is CpuLibrary.OPENVINO
    assert choose_library("openvino-bf16", old) is CpuLibrary.OPENVINO_BF16
    assert choose_library("auto", old) is CpuLibrary.NCNN
    assert choose_library("auto", tmp_path / "none") is CpuLibrary.NCNN
    assert choose_library("openvino", old) is CpuLibrary.OPENVINO
    assert choose_library("ncnn", new) is CpuLibrary.NCNN

    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert choose_library("auto", new) is CpuLibrary.NCNN
    assert choose_library("auto", newest) is CpuLibrary.NCNN
    for wanted in ("openvino", "openvino-bf16"):
        with pytest.raises(ConfigError) as caught:
            choose_library(wanted, new)
        assert str(caught.value) == (
            f"upscaler.cpu_library is '{wanted}', for which OpenVINO is not installed; install it "
            "into the service's environment (pip install openvino), or set upscaler.cpu_library "
            "to auto."
        )
