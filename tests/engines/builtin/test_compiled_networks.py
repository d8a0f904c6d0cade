"""Compiled networks that outlive a process: found again, checked, bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from testkit.networks import make_task, photo, result, shipped
from testkit.small_disk import small_disk
from upscaled.engines.builtin import compiled_networks
from upscaled.engines.builtin.compiled_networks import CompiledNetworks, keep, read
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.loader import Loader
from upscaled.engines.builtin.network import Floats
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.tile_plan import plan_on_cpu
from upscaled.engines.engine import CPU
from upscaled.pictures import Size

IDENTITY = (("n.param", 1, 1),)


@pytest.mark.parametrize("library", [CpuLibrary.OPENVINO, CpuLibrary.OPENVINO_BF16])
def test_a_network_that_was_kept_makes_the_same_picture_without_being_compared_again(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, library: CpuLibrary
) -> None:
    model, tile = shipped(models_dir, "realesr-animevideov3-x2"), photo(46, 38)
    plan = plan_on_cpu(model, 1 << 20, Size(64, 64), threads=2, limit=1 << 30, library=library)
    compared = []
    expected = Loader._expected

    def watched(loader: Loader, files: NetworkFiles) -> object:
        compared.append(files)
        return expected(loader, files)

    monkeypatch.setattr(Loader, "_expected", watched)

    def load(*facts: str) -> Floats:
        loader = Loader(None, 2, library, CompiledNetworks(tmp_path / "networks", facts))
        files = NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)
        return loader.load(files, IDENTITY, plan, threads=1).run(tile)

    first = load("version 1")
    (file,) = (tmp_path / "networks").iterdir()
    written = file.stat().st_mtime_ns
    assert np.array_equal(load("version 1"), first)
    assert len(compared) == 1
    # Another version, or another processor, has files of its own.
    assert np.array_equal(load("version 2"), first)
    assert len(compared) == 2
    # A damaged one is built, compared and kept again.
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert read(file) is None
    assert np.array_equal(load("version 1"), first)
    assert len(compared) == 3
    assert read(file) is not None
    assert file.stat().st_mtime_ns > written
    # So is one that the library refuses.
    keep(file, b"no network", 3)
    assert np.array_equal(load("version 1"), first)
    assert len(compared) == 4


async def test_the_engine_keeps_networks_in_its_folder(tmp_path: Path, models_dir: Path) -> None:
    model, folder = shipped(models_dir, "realesr-animevideov3-x2"), tmp_path / "a" / "networks"
    pictures = []
    for _ in range(2):
        engine = BuiltinEngine(CPU, library=CpuLibrary.OPENVINO, networks=folder)
        try:
            task = make_task(tmp_path, photo(40, 30), model)
            task.target.path.write_bytes(bytes(task.target.total_bytes))
            await engine.upscale(task, lambda _: None)
            pictures.append(result(task))
        finally:
            await engine.close()
    assert len(list(folder.iterdir())) == 1
    assert np.array_equal(pictures[0], pictures[1])


def test_files_unused_for_longest_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_networks, "_MOST_BYTES", 3000)
    kept = CompiledNetworks(tmp_path)
    paths = [kept.path_of(number) for number in range(4)]
    for age, path in enumerate(paths[:3]):
        keep(path, bytes(900), 0)
        assert path is not None
        os.utime(path, ns=(age, age))
    assert read(paths[0]) == (bytes(900), 0)  # which makes it the newest
    keep(paths[3], bytes(900), 0)
    assert [path is not None and path.exists() for path in paths] == [True, False, True, True]
    keep(paths[1], bytes(3000), 0)  # never fits
    assert read(paths[1]) is None
    assert len(list(tmp_path.iterdir())) == 3


def test_the_rest_of_a_small_disk_is_left_to_jobs(tmp_path: Path) -> None:
    path = CompiledNetworks(tmp_path).path_of(1)
    with small_disk(tmp_path, 257 << 10):
        keep(path, bytes(2 << 20), 0)
        assert not list(tmp_path.iterdir()), "neither the file nor a part of it"
        keep(path, bytes(1 << 19), 0)
        assert read(path) == (bytes(1 << 19), 0)


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = CompiledNetworks(tmp_path / "file" / "networks").path_of(1)
    keep(path, b"network", 0)
    assert read(path) is None
    assert CompiledNetworks(None).path_of(1) is None
