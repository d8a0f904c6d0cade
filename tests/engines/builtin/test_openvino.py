"""Networks on OpenVINO: the same pictures as ncnn's, or ncnn is used."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testkit.networks import (
    GATED,
    enlarged_plainly,
    make_task,
    photo,
    psnr,
    result,
    shipped,
    write_network,
    write_repeater,
    write_weights,
)
from upscaled.engines.builtin import loader
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.inspection import gradient
from upscaled.engines.builtin.loader import LibraryRejectedError, Loader, textured
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    Floats,
    InferenceError,
    Pixels,
    crop_margin,
    to_bytes,
)
from upscaled.engines.builtin.openvino_network import OpenvinoNetwork
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.tile_plan import plan_on_cpu
from upscaled.engines.engine import CPU, PADDING, ModelFiles
from upscaled.errors import ConfigError
from upscaled.pictures import Size

OFFICIAL = [
    "realesr-animevideov3-x2",
    "realesr-animevideov3-x3",
    "realesr-animevideov3-x4",
    "realesrgan-x4plus",
    "realesrgan-x4plus-anime",
]


def files_of(model: ModelFiles) -> NetworkFiles:
    return NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)


def open_vino(
    model: ModelFiles, *, threads: int = 1, padding: int = PADDING, bf16: bool = False
) -> OpenvinoNetwork:
    return OpenvinoNetwork(files_of(model), cores=2, threads=threads, padding=padding, bf16=bf16)


def ncnn_whole(model: ModelFiles, tile: Pixels, padding: int) -> Floats:
    """Return ncnn's output for the tile without its padding, computed without padding trim."""
    planes = NcnnNetwork(files_of(model), device=None, threads=2, padding=0).run(tile)
    return crop_margin(planes, padding * planes.shape[-1] // tile.shape[1])


async def enlarge(
    task_folder: Path,
    pixels: Pixels,
    model: ModelFiles,
    library: CpuLibrary = CpuLibrary.OPENVINO,
) -> tuple[Pixels, str]:
    """Return what an engine that prefers a library makes, and the one that it says it used."""
    task = make_task(task_folder, pixels, model)
    engine = BuiltinEngine(CPU, threads=2, library=library)
    used: set[str | None] = set()
    try:
        await engine.upscale(task, lambda progress: used.add(progress.library))
    finally:
        await engine.close()
    (told,) = used
    assert told is not None
    return result(task), told


@pytest.mark.parametrize("stem", OFFICIAL)
def test_official_networks_make_the_pictures_of_ncnn(models_dir: Path, stem: str) -> None:
    model, tile = shipped(models_dir, stem), photo(46, 38)
    expected = ncnn_whole(model, tile, PADDING)
    made = open_vino(model).run(tile)
    assert made.shape == expected.shape
    assert psnr(to_bytes(made), to_bytes(expected)) > 80
    assert float(np.abs(made - expected).max()) < 1e-4


SHALLOW = [stem for stem in OFFICIAL if stem != "realesrgan-x4plus"]


@pytest.mark.parametrize("stem", SHALLOW)
def test_in_bfloat16_all_but_the_deepest_make_pictures_that_look_the_same(
    models_dir: Path, stem: str
) -> None:
    model = shipped(models_dir, stem)
    network = open_vino(model, bf16=True)
    for tile in (photo(46, 38), gradient(46, 38), textured(46, 38)):
        expected = to_bytes(ncnn_whole(model, tile, PADDING))
        made = to_bytes(network.run(tile))
        assert psnr(made, expected) > 53
        assert not np.array_equal(made, expected)  # in 32 bits next to nothing differs


CONCATENATED = (
    "Split s 1 3 data a b c",
    "Convolution k 1 1 a d 0=4 1=3 4=1 5=1 6=108 9=2 -23310=1,2.000000e-01",
    "Concat e 2 1 b d e",
    "Split t 1 2 e f g",
    "Concat h 2 1 f c h",  # of a concatenation
    "PReLU i 1 1 g i 0=7",  # it is wanted whole
    "Concat j 2 1 i h j",
    "Convolution l 1 1 j output 0=3 1=3 4=1 5=1 6=459",
)
TWICE = (
    "Interp s 1 1 data a 0=1 1=2.0 2=2.0",
    "Convolution k 1 1 a c 0=4 1=3 4=1 5=1 6=108 9=2 -23310=1,2.000000e-01",
)
TWICE_OF_TWO = (
    "Split s 1 2 data a b",
    "Interp t 1 1 a c 0=1 1=2.0 2=2.0",
    "Convolution k 1 1 c d 0=3 1=3 4=1 5=1 6=81 9=1",
    "Interp u 1 1 b e 0=1 1=2.0 2=2.0",
)
TO_BE_SHUFFLED = ("Split s 1 2 data a b", "Convolution k 1 1 a c 0=12 1=3 4=1 5=1 6=324")
SHUFFLED = (*TO_BE_SHUFFLED, "PixelShuffle d 1 1 c d 0=2")


@pytest.mark.parametrize(
    "layers",
    [
        CONCATENATED,
        (*SHUFFLED, "Interp e 1 1 b e 0=1 1=2.0 2=2.0", "BinaryOp o 2 1 d e output 0=0"),
        (*SHUFFLED, "Interp e 1 1 b e 0=1 1=2.0 2=2.0", "BinaryOp o 2 1 e d output 0=0"),
        (*SHUFFLED, "Interp e 1 1 b e 0=3 1=2.0 2=2.0", "BinaryOp o 2 1 d e output 0=0"),
        (  # each enlarged by something else, in two steps
            *TO_BE_SHUFFLED,
            "Convolution l 1 1 c d 0=48 1=1 4=0 5=1 6=576",
            "PixelShuffle e 1 1 d e 0=4",
            "Interp f 1 1 b f 0=1 1=2.0 2=2.0",
            "Interp g 1 1 f g 0=1 1=2.0 2=2.0",
            "BinaryOp o 2 1 e g output 0=0",
        ),
        (*SHUFFLED, "Interp e 1 1 b e 0=1 1=2.0 2=2.0", "Eltwise o 2 1 d e output 0=1"),
        (  # convolved before they are repeated, and enlarged by something else then
            *TWICE,
            "Interp b 1 1 c d 0=1 1=2.0 2=2.0",
            "Convolution e 1 1 d output 0=3 1=3 4=1 5=1 6=108",
        ),
        (
            *TWICE,
            "Interp b 1 1 c d 0=1 1=3.0 2=3.0",
            "Convolution e 1 1 d output 0=3 1=1 4=0 5=1 6=12",
        ),
        (*TWICE, "PixelShuffle b 1 1 c d 0=2", "Convolution e 1 1 d output 0=3 1=1 4=0 5=1 6=3"),
        (*TWICE_OF_TWO, "BinaryOp o 2 1 d e output 0=0"),
        GATED,
    ],
    ids=[
        "concat",
        "shuffle",
        "other way round",
        "cubic",
        "two steps",
        "eltwise",
        "phases twice",
        "phases, repeated",
        "phases, shuffled",
        "phases, added",
        "gated",
    ],
)
@pytest.mark.parametrize("padding", [0, 1, 3, 10])
def test_networks_put_together_in_other_ways(
    tmp_path: Path, layers: tuple[str, ...], padding: int
) -> None:
    model = write_network(tmp_path, "n", *layers)
    write_weights(model)
    tile = photo(31, 26)
    expected = ncnn_whole(model, tile, padding)
    made = open_vino(model, padding=padding).run(tile)
    assert made.shape == expected.shape
    largest = float(np.abs(expected).max())
    assert largest > 0.1
    assert float(np.abs(made - expected).max()) < 1e-5
    made = open_vino(model, padding=padding, bf16=True).run(tile)
    assert made.shape == expected.shape
    assert float(np.abs(made - expected).max()) < 0.02 * largest


@pytest.mark.parametrize("bf16", [False, True])
def test_the_bytes_do_not_depend_on_the_threads_or_on_tiles_beside(
    models_dir: Path, bf16: bool
) -> None:
    model = shipped(models_dir, "realesr-animevideov3-x2")
    tiles = [photo(90, 60), photo(64, 64), photo(40, 90)] * 3
    alone = open_vino(model, threads=2, bf16=bf16)
    expected = [alone.run(tile) for tile in tiles]
    together = open_vino(model, threads=1, bf16=bf16)

    def work(tile: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        planes = together.run(tile)
        together.release_memory()
        return planes

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(work, tiles))
    assert all(np.array_equal(one, other) for one, other in zip(made, expected, strict=True))


def test_memory_is_given_back_only_while_no_tile_is_running(models_dir: Path) -> None:
    network = open_vino(shipped(models_dir, "realesr-animevideov3-x2"))
    network.run(photo(40, 40))
    compiled, refused = network._compiled, []

    class Watched:
        """Has a tile begin just as memory is to be released, which the library would refuse."""

        def create_infer_request(self) -> object:
            return compiled.create_infer_request()

        def release_memory(self) -> None:
            thread = threading.Thread(target=network.run, args=(photo(200, 200),))
            thread.start()
            thread.join(0.2)
            refused.append(thread.is_alive())
            compiled.release_memory()
            threads.append(thread)

    threads: list[threading.Thread] = []
    network._compiled = Watched()
    assert network.release_memory()
    assert refused == [True]  # it waited
    threads[0].join()
    network._running = 1
    assert not network.release_memory()


def test_values_that_are_not_numbers_are_noticed(tmp_path: Path) -> None:
    model = write_network(tmp_path, "n", "Convolution c 1 1 data output 0=3 1=1 4=0 5=1 6=9")
    weights = np.full(12, np.inf, np.float32)
    model.bin.write_bytes(bytes(4) + weights.tobytes())
    with pytest.raises(InferenceError, match="values that are not numbers"):
        open_vino(model).run(photo(24, 24))


async def test_the_engine_tells_what_it_used(tmp_path: Path, models_dir: Path) -> None:
    _, used = await enlarge(tmp_path, photo(40, 30), shipped(models_dir, "realesrgan-x4plus"))
    assert used == await asyncio.to_thread(CpuLibrary.OPENVINO.with_version)
    assert used.startswith("OpenVINO 20")


def test_it_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    code = """
import sys
told = []
def hook(event, arguments):
    if event.startswith("socket.") or event in {"os.mkdir", "subprocess.Popen"}:
        told.append((event, arguments))
sys.addaudithook(hook)
import upscaled.engines.builtin.openvino_network
import openvino
openvino.Core().available_devices
print(told)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},  # CI=true would hide it
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", [CpuLibrary.OPENVINO, CpuLibrary.OPENVINO_BF16])
async def test_bands_have_the_bytes_of_the_whole_picture(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    model, pixels = shipped(models_dir, "realesr-animevideov3-x4"), photo(120, 130, left=0)
    engine = BuiltinEngine(CPU, threads=2, library=library)
    try:
        task = make_task(tmp_path, pixels, model, tile_size=40)
        await engine.upscale(task, lambda _: None)
        whole = result(task)
        task.target.path.write_bytes(bytes(task.target.total_bytes))
        for rows in ((80, 120), (0, 80), (120, 130)):
            band = make_task(tmp_path, pixels, model, rows=rows, tile_size=40)
            await engine.upscale(band, lambda _: None)
        assert np.array_equal(result(task), whole)
    finally:
        await engine.close()


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
