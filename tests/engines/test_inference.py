"""Networks, padding and rounding, in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.engines.making import (
    enlarged_plainly,
    make_task,
    photo,
    psnr,
    result,
    shipped,
    write_network,
    write_repeater,
)
from upscaled.engines.inference import InferenceError, Network, to_bytes, upscale
from upscaled.engines.messages import NetworkFiles
from upscaled.engines.protocol import ModelFiles, UpscaleTask


def load(files: ModelFiles) -> Network:
    network = NetworkFiles(files.param, files.bin, files.input_blob, files.output_blob)
    return Network(network, device=None, threads=2)


def run(task: UpscaleTask) -> None:
    upscale(load(task.model), task, task.tile_size, lambda done, of, rows: None)


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
    told: list[tuple[int, int, int]] = []
    upscale(load(task.model), task, 32, lambda *how_far: told.append(how_far))
    assert told == [(1, 6, 0), (2, 6, 0), (3, 6, 32), (4, 6, 32), (5, 6, 32), (6, 6, 40)]


def test_values_that_are_not_numbers_are_noticed(tmp_path: Path) -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    for stem, layer in {"infinite": "UnaryOp u 1 1 data output 0=8"}.items():
        task = make_task(tmp_path, black, write_network(tmp_path, stem, layer), tile_size=32)
        with pytest.raises(InferenceError, match="values that are not numbers") as caught:
            run(task)
        assert caught.value.kind == "not_finite"


def test_a_single_nan_is_noticed(tmp_path: Path) -> None:
    # The root of a negative number, for the one pixel that is not white.
    pixels = np.full((40, 40, 3), 255, np.uint8)
    pixels[33, 12, 1] = 254
    layers = ("BinaryOp less 1 1 data dark 0=1 1=1 2=1.0", "UnaryOp root 1 1 dark output 0=5")
    task = make_task(tmp_path, pixels, write_network(tmp_path, "n", *layers), tile_size=32)
    with pytest.raises(InferenceError, match="values that are not numbers"):
        run(task)


def test_a_wrong_scale_is_noticed(tmp_path: Path) -> None:
    files = dataclasses.replace(write_repeater(tmp_path, "n", 3), native_scale=2)
    with pytest.raises(InferenceError, match="were expected"):
        run(make_task(tmp_path, photo(20, 20), files, tile_size=32))


def test_a_source_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    task = make_task(tmp_path, photo(20, 20), write_repeater(tmp_path, "n", 2), tile_size=32)
    task.source.path.write_bytes(b"short")
    with pytest.raises(InferenceError, match=r"source\.rgb is shorter"):
        run(task)


def test_bytes_are_rounded_half_up_and_clipped() -> None:
    values = np.array([-3.0, -0.001, 0.0, 0.49, 0.5, 1.5, 2.49, 254.5, 255.4, 256.0, 9e9])
    planes = np.broadcast_to((values / 255).astype(np.float32), (3, 5, len(values)))
    expected = [0, 0, 0, 0, 1, 2, 2, 255, 255, 255, 255]
    assert (to_bytes(planes) == np.array(expected, np.uint8)[None, :, None]).all()


def test_bytes_of_wide_planes_do_not_depend_on_the_blocks() -> None:
    planes = np.random.default_rng(1).random((3, 37, 5000), dtype=np.float32)
    expected = np.floor(planes * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    assert np.array_equal(to_bytes(planes), expected.transpose(1, 2, 0))
