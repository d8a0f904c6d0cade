"""Tasks: every tile is written to its place, several at the same time."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from testkit.networks import (
    enlarged_plainly,
    make_task,
    photo,
    psnr,
    result,
    shipped,
    write_network,
    write_repeater,
)
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import InferenceError, Network
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.upscaling import TilesDone, upscale
from upscaled.engines.engine import ModelFiles, UpscaleTask


def load(files: ModelFiles, threads: int = 2) -> Network:
    network = NetworkFiles(files.param, files.bin, files.input_blob, files.output_blob)
    return NcnnNetwork(network, device=None, threads=threads)


def run(task: UpscaleTask) -> None:
    upscale(load(task.model), task, task.tile_size, lambda _: None)


def test_every_pixel_of_every_tile_comes_to_its_place(tmp_path: Path) -> None:
    pixels = photo(90, 70)
    task = make_task(tmp_path, pixels, write_repeater(tmp_path, "n", 3), tile_size=32)
    run(task)
    assert np.array_equal(result(task), enlarged_plainly(pixels, 3))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (11, 10)])
def test_pictures_smaller_than_the_padding_come_out_right(
    tmp_path: Path, models_dir: Path, size: tuple[int, int]
) -> None:
    pixels = photo(*size)
    task = make_task(tmp_path, pixels, write_repeater(tmp_path, "n", 4), tile_size=32)
    run(task)
    assert np.array_equal(result(task), enlarged_plainly(pixels, 4))
    task = make_task(tmp_path, pixels, shipped(models_dir, "realesr-animevideov3-x2"), tile_size=32)
    run(task)
    reduced = result(task).reshape(size[1], 2, size[0], 2, 3).mean((1, 3)).astype(np.uint8)
    assert psnr(reduced, pixels) > 20


def test_bands_equal_the_whole_picture(tmp_path: Path, models_dir: Path) -> None:
    model = shipped(models_dir, "realesr-animevideov3-x3")
    pixels = photo(50, 90)
    task = make_task(tmp_path, pixels, model, tile_size=32)
    run(task)
    whole = result(task)
    task.target.path.unlink()
    for rows in ((64, 90), (0, 32), (32, 64)):
        run(make_task(tmp_path, pixels, model, rows=rows, tile_size=32))
    assert np.array_equal(result(task), whole)


def test_a_band_writes_no_row_of_its_neighbours(tmp_path: Path) -> None:
    task = make_task(
        tmp_path, photo(40, 60), write_repeater(tmp_path, "n", 2), rows=(20, 40), tile_size=32
    )
    task.target.path.write_bytes(b"\x55" * task.target.total_bytes)
    run(task)
    pixels = result(task)
    assert (pixels[:40] == 0x55).all()
    assert (pixels[80:] == 0x55).all()
    assert np.array_equal(pixels[40:80], enlarged_plainly(photo(40, 60)[20:40], 2))


def test_averaging_undoes_every_flip_and_turn(tmp_path: Path, models_dir: Path) -> None:
    pixels = photo(37, 50)
    task = make_task(tmp_path, pixels, write_repeater(tmp_path, "n", 2), tile_size=32, tta=True)
    run(task)
    assert np.array_equal(result(task), enlarged_plainly(pixels, 2))
    model = shipped(models_dir, "realesr-animevideov3-x2")
    plain, averaged = (
        make_task(tmp_path, pixels, model, tile_size=64, tta=tta) for tta in (False, True)
    )
    run(plain)
    once = result(plain)
    run(averaged)
    assert 30 < psnr(result(averaged), once) < 60


def test_progress_is_told_tile_by_tile(tmp_path: Path) -> None:
    task = make_task(tmp_path, photo(70, 40), write_repeater(tmp_path, "n", 2), tile_size=32)
    told: list[TilesDone] = []
    upscale(load(task.model), task, 32, told.append)
    assert {tiles.total for tiles in told} == {6}
    assert [(tiles.done, tiles.rows) for tiles in told] == [
        (0, 0), (1, 0), (2, 0), (3, 32), (4, 32), (5, 32), (6, 40)
    ]  # fmt: skip


def test_a_wrong_scale_is_noticed(tmp_path: Path) -> None:
    files = dataclasses.replace(write_repeater(tmp_path, "n", 3), native_scale=2)
    with pytest.raises(InferenceError, match="were expected"):
        run(make_task(tmp_path, photo(20, 20), files, tile_size=32))


def test_a_source_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    task = make_task(tmp_path, photo(20, 20), write_repeater(tmp_path, "n", 2), tile_size=32)
    task.source.path.write_bytes(b"short")
    with pytest.raises(InferenceError, match=r"source\.rgb is shorter"):
        run(task)


@pytest.mark.parametrize("stem", ["realesr-animevideov3-x2", "realesrgan-x4plus-anime"])
def test_the_bytes_depend_neither_on_the_workers_nor_on_their_threads(
    tmp_path: Path, models_dir: Path, stem: str
) -> None:
    files = shipped(models_dir, stem)
    task = make_task(tmp_path, photo(70, 40), files, tile_size=32)
    pictures = []
    for workers, threads in ((1, 1), (1, 2), (1, 3), (2, 1), (4, 1), (3, 2)):
        task.target.path.write_bytes(bytes(task.target.total_bytes))
        upscale(load(files, threads), task, 32, lambda *_: None, workers=workers)
        pictures.append(result(task))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_rows_told_are_whole_whoever_is_first(tmp_path: Path) -> None:
    pixels = photo(160, 200)
    task = make_task(tmp_path, pixels, write_repeater(tmp_path, "n", 2), tile_size=32)
    expected = enlarged_plainly(pixels, 2)
    told: list[tuple[int, int, int]] = []

    def check(tiles: TilesDone) -> None:
        told.append((tiles.done, tiles.total, tiles.rows))
        assert np.array_equal(result(task)[: 2 * tiles.rows], expected[: 2 * tiles.rows])
        assert (tiles.seconds_per_pixel is None) == (tiles.done == 0)

    upscale(load(task.model), task, 32, check, workers=4)
    assert [done for done, _, _ in told] == list(range(36))
    rows = [rows for _, _, rows in told]
    assert rows == sorted(rows)
    assert set(rows) <= {*range(0, 200, 32), 200}
    assert told[-1] == (35, 35, 200)


def test_a_failure_of_one_worker_stops_all(tmp_path: Path) -> None:
    pixels = np.full((200, 200, 3), 255, np.uint8)
    pixels[70:90, 70:90] = 0  # whose logarithm is no number
    network = write_network(tmp_path, "n", "UnaryOp u 1 1 data output 0=8")
    task = make_task(tmp_path, pixels, network, tile_size=32)
    told: list[int] = []
    with pytest.raises(InferenceError, match="not numbers"):
        upscale(load(network), task, 32, lambda tiles: told.append(tiles.done), workers=3)
    assert len(told) < 40


def test_a_failed_task_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    # It would hold a network's memory until it runs, and free its parts in any order: a blob that
    # is freed after the memory it lies in ends the process.
    task = make_task(
        tmp_path,
        np.zeros((200, 200, 3), np.uint8),
        write_network(tmp_path, "n", "UnaryOp u 1 1 data output 0=8"),
        tile_size=32,
    )

    def fail() -> weakref.ref[Network]:
        network = load(task.model)
        try:
            upscale(network, task, 32, lambda *_: None, workers=3)
        except InferenceError as error:
            assert error.kind == "not_finite"
            return weakref.ref(network)
        pytest.fail("the task did not fail")

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_a_callback_that_fails_ends_the_task(tmp_path: Path) -> None:
    task = make_task(tmp_path, photo(200, 200), write_repeater(tmp_path, "n", 2), tile_size=32)

    def fail(tiles: TilesDone) -> None:
        if tiles.done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        upscale(load(task.model), task, 32, fail, workers=2)
