"""Networks, padding and rounding, in this process."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path

import ncnn
import numpy as np
import pytest

from testkit.networks import make_task, write_network, write_repeater
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import InferenceError, Network, to_bytes
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.upscaling import upscale
from upscaled.engines.engine import ModelFiles, UpscaleTask


def load(files: ModelFiles) -> Network:
    network = NetworkFiles(files.param, files.bin, files.input_blob, files.output_blob)
    return NcnnNetwork(network, device=None, threads=2)


def run(task: UpscaleTask) -> None:
    upscale(load(task.model), task, task.tile_size, lambda _: None)


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


def test_an_error_keeps_no_blobs(tmp_path: Path) -> None:
    files = dataclasses.replace(write_repeater(tmp_path, "n", 2), output_blob="nothing")
    with pytest.raises(InferenceError, match="failed on a tile of 40×30 pixels") as caught:
        load(files).run(np.zeros((30, 40, 3), np.uint8))
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
    assert {"run", "_extract"} <= {frame.f_code.co_name for frame in frames}
    kept = [value for frame in frames for value in frame.f_locals.values()]
    assert not [value for value in kept if isinstance(value, (ncnn.Mat, ncnn.Extractor))]


def test_bytes_are_rounded_half_up_and_clipped() -> None:
    values = np.array([-3.0, -0.001, 0.0, 0.49, 0.5, 1.5, 2.49, 254.5, 255.4, 256.0, 9e9])
    planes = np.broadcast_to((values / 255).astype(np.float32), (3, 5, len(values)))
    expected = [0, 0, 0, 0, 1, 2, 2, 255, 255, 255, 255]
    assert (to_bytes(planes) == np.array(expected, np.uint8)[None, :, None]).all()


def test_bytes_of_wide_planes_do_not_depend_on_the_blocks() -> None:
    planes = np.random.default_rng(1).random((3, 37, 5000), dtype=np.float32)
    expected = np.floor(planes * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    assert np.array_equal(to_bytes(planes), expected.transpose(1, 2, 0))
