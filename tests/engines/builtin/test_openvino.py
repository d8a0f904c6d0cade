"""Networks on OpenVINO: the same pictures as ncnn's, or ncnn is used."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from testkit.cpu_libraries import enlarge, files_of
from testkit.networks import (
    GATED,
    make_task,
    photo,
    psnr,
    result,
    shipped,
    write_network,
    write_weights,
)
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.inspection import gradient
from upscaled.engines.builtin.loader import textured
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    Floats,
    InferenceError,
    Pixels,
    crop_margin,
    to_bytes,
)
from upscaled.engines.builtin.openvino_network import OpenvinoNetwork
from upscaled.engines.engine import CPU, PADDING, ModelFiles

OFFICIAL = [
    "realesr-animevideov3-x2",
    "realesr-animevideov3-x3",
    "realesr-animevideov3-x4",
    "realesrgan-x4plus",
    "realesrgan-x4plus-anime",
]


def open_vino(
    model: ModelFiles, *, threads: int = 1, padding: int = PADDING, bf16: bool = False
) -> OpenvinoNetwork:
    return OpenvinoNetwork(files_of(model), cores=2, threads=threads, padding=padding, bf16=bf16)


def ncnn_whole(model: ModelFiles, tile: Pixels, padding: int) -> Floats:
    """Return ncnn's output for the tile without its padding, computed without padding trim."""
    planes = NcnnNetwork(files_of(model), device=None, threads=2, padding=0).run(tile)
    return crop_margin(planes, padding * planes.shape[-1] // tile.shape[1])


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
