"""Networks are recognised by their weights, and both ways of running them equal PyTorch's."""

from __future__ import annotations

from pathlib import Path

import ncnn
import numpy as np
import pytest
from numpy.typing import NDArray

from testkit import checkpoints
from testkit.network_grid import OUTPUTS, Case, cases, picture
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import write_pair
from upscaled.models.conversion.recognition import recognise

GRID = list(cases())


def decibels(made: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the agreement, the largest value of ``expected`` being the peak."""
    assert made.shape == expected.shape
    error = float(np.mean((made.astype(np.float64) - expected) ** 2))
    return 10 * float(np.log10(float(np.abs(expected).max()) ** 2 / max(error, 1e-30)))


def test_pytorchs_outputs_are_those_of_the_whole_grid() -> None:
    with np.load(OUTPUTS) as outputs:
        assert set(outputs) == {case.name for case in GRID if case.in_pytorch}


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_a_network_computes_what_pytorch_computes(case: Case, tmp_path: Path) -> None:
    network = recognise(case.tensors, case.activation)
    assert (network.architecture, network.scale) == (case.architecture, case.scale)
    made = network.run(picture())
    with np.load(OUTPUTS) as outputs:
        expected = outputs[case.name] if case.in_pytorch else made
    assert decibels(made, expected) > 100
    param, weights = tmp_path / "n.param", tmp_path / "n.bin"
    write_pair(network.layers(), param, weights, half=False)
    assert decibels(run_by_ncnn(param, weights), expected) > 80


def run_by_ncnn(param: Path, weights: Path) -> NDArray[np.float32]:
    """Return ncnn's output for the picture, in 32 bits."""
    net = ncnn.Net()
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    planes = picture()
    held = ncnn.Mat(planes)
    extractor.input("data", held)
    failed, made = extractor.extract("output")
    assert failed == 0
    values = np.array(made)
    del made, extractor, held  # in this order: they use memory of what comes after them
    return values


def test_the_same_weights_in_three_spellings_are_the_same_network() -> None:
    made = [
        recognise(checkpoints.esrgan(style, seed=3)).run(picture())
        for style in ("model", "RRDB_trunk", "body")
    ]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_a_compact_network_without_slopes_asks_for_its_activation() -> None:
    with pytest.raises(ConversionError, match="--activation relu, or --activation leakyrelu"):
        recognise(checkpoints.compact("relu"))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"layers.0.residual_group.overlap_attn.qkv.weight": (3, 3)}, "of the family HAT, which"),
        ({"fc.weight": (3, 3)}, "not of the families ESRGAN"),
    ],
)
def test_other_families_are_named(tensors: dict[str, tuple[int, ...]], words: str) -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    with pytest.raises(ConversionError, match=words):
        recognise(weights)


def test_a_network_for_grey_pictures_is_refused() -> None:
    tensors = dict(checkpoints.esrgan("body"))
    tensors["conv_first.weight"] = tensors["conv_first.weight"][:, :1].copy()
    with pytest.raises(ConversionError, match="takes 1 channels and makes 3"):
        recognise(tensors)


def test_weights_that_an_esrgan_has_not_are_named() -> None:
    tensors = {**checkpoints.esrgan("body"), "attention.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(ConversionError, match=r"attention\.weight"):
        recognise(tensors)


def test_a_layer_that_is_missing_is_named() -> None:
    tensors = dict(checkpoints.esrgan("RRDB_trunk"))
    del tensors["RRDB_trunk.0.RDB2.conv4.weight"]
    with pytest.raises(ConversionError, match=r"RRDB_trunk\.0\.RDB2\.conv4"):
        recognise(tensors)
