"""Networks that trim padding: the tile's own pixels stay what they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testkit.networks import GATED, photo, shipped, write_network, write_weights
from upscaled.engines.builtin import inspection, ncnn_network
from upscaled.engines.builtin.graph import UnknownGraphError, operations, read_graph
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import Floats, InferenceError, crop_margin
from upscaled.engines.builtin.padding_trim import TrimmedNetwork, trim_padding
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.engine import PADDING, ModelFiles
from upscaled.pictures import Size


def files_of(model: ModelFiles) -> NetworkFiles:
    return NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)


def both(
    model: ModelFiles, width: int, height: int, padding: int, *, known: bool = True, **options: bool
) -> tuple[Floats, Floats]:
    """Return a tile's output without its padding: without and with padding trim.

    The network is trim_padding if it is ``known``, and only then.
    """
    files = files_of(model)
    tile = photo(width + 2 * padding, height + 2 * padding)
    planes = NcnnNetwork(files, device=None, threads=2, padding=0).run(tile)
    whole = crop_margin(planes, padding * planes.shape[-1] // tile.shape[1])
    network = NcnnNetwork(files, device=None, threads=2, padding=padding, **options)
    assert (network._margin is not None) == known
    return whole, network.run(tile)


@pytest.mark.parametrize(
    ("stem", "padding"),
    [
        *((f"realesr-animevideov3-x{scale}", PADDING) for scale in (2, 3, 4)),
        *(("realesr-animevideov3-x3", padding) for padding in (1, 2, 3, 17, 25)),
        ("realesrgan-x4plus", PADDING),
        ("realesrgan-x4plus-anime", PADDING),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (13, 8)])
def test_official_networks_make_the_same_pictures(
    models_dir: Path, stem: str, padding: int, size: tuple[int, int]
) -> None:
    whole, made = both(shipped(models_dir, stem), *size, padding)
    assert made.shape == whole.shape == (3, size[1] * made.shape[2] // size[0], made.shape[2])
    assert float(np.abs(made - whole).max()) < 2e-5


def test_so_they_do_without_what_makes_them_larger(models_dir: Path) -> None:
    whole, made = both(shipped(models_dir, "realesrgan-x4plus-anime"), 9, 7, PADDING, lean=True)
    assert made.shape == whole.shape
    assert float(np.abs(made - whole).max()) < 2e-5


@pytest.mark.parametrize(
    ("stem", "left"),
    [
        ("realesr-animevideov3-x2", 0.90),
        ("realesr-animevideov3-x4", 0.87),
        ("realesrgan-x4plus", 0.97),
        ("realesrgan-x4plus-anime", 0.90),
    ],
)
def test_less_is_calculated(models_dir: Path, stem: str, left: float) -> None:
    files = files_of(shipped(models_dir, stem))
    layers = read_graph(files.param, files.bin)
    tile = Size(64 + 2 * PADDING, 64 + 2 * PADDING)
    shorter = trim_padding(layers, files.input_blob, files.output_blob, PADDING).layers
    part = operations(shorter, "data", tile) / operations(layers, "data", tile)
    assert left - 0.02 < part < left


CONVOLUTION = "Convolution {0} 1 1 {1} {2} 0={3} 1=3 4=1 5=1 6={4}"
HALVED = (
    CONVOLUTION.format("a", "data", "b", 4, 108),
    "Interp e 1 1 b c 0=1 1=4.0 2=4.0",
    CONVOLUTION.format("f", "c", "d", 3, 108),
    "Interp i 1 1 d g 0=3 1=5.0e-01 2=5.0e-01",  # wants its padding even
    CONVOLUTION.format("j", "g", "h", 3, 81),
    CONVOLUTION.format("k", "h", "output", 3, 81),
)
SKIPPED = (
    "Split s 1 3 data a b c",
    CONVOLUTION.format("d", "a", "e", 5, 135),
    "Concat f 2 1 e b g",
    CONVOLUTION.format("h", "g", "i", 3, 216),
    "Eltwise j 2 1 i c output 0=1 -23301=2,5.0e-01,2.0",
)
FIVE = ("Convolution a 1 1 data output 0=3 1=5 4=2 5=1 6=225",)
SHRUNK = ("Interp a 1 1 data b 0=1 1=5.0e-01 2=5.0e-01", "Interp c 1 1 b output 0=1 1=4.0 2=4.0")
UNKNOWN = ("Interp a 1 1 data b 0=1 1=2.0 2=2.0", "Clip c 1 1 b output 0=0.0 1=1.0")


@pytest.mark.parametrize("padding", [2, 4, 6, 10])
@pytest.mark.parametrize(
    "layers",
    [HALVED, SKIPPED, FIVE, GATED, SHRUNK, UNKNOWN],
    ids=["halved", "skipped", "five", "gated", "shrunk", "unknown"],
)
def test_so_do_others(tmp_path: Path, layers: tuple[str, ...], padding: int) -> None:
    model = write_network(tmp_path, "n", *layers)
    write_weights(model)
    known = layers not in {SHRUNK, UNKNOWN}
    whole, made = both(model, 12, 8, padding, known=known)
    assert made.shape == whole.shape
    assert float(np.abs(whole).max()) > 0.1
    assert float(np.abs(made - whole).max()) < 1e-5


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (SHRUNK, "It has a fractional or very large scale"),
        (("Interp a 1 1 data output 0=1 1=1.0e+12 2=1.0e+12",), "or very large scale"),
        (
            ("Split s 1 2 data a b", "BinaryOp b 2 1 a b a 0=0"),
            "Two of its blobs have the same name",
        ),
        (("Input more 0 1 more", "BinaryOp b 2 1 data more output 0=0"), "more than one input"),
        (("PixelShuffle b 1 1 data made 0=2",), "It has no output output"),
        (
            ("MemoryData m 0 1 m 0=1 1=1 2=3", "BinaryOp b 2 1 m data output 0=1"),
            "It calculates with constants alone",
        ),
    ],
)
def test_what_can_not_be_trimmed_is_refused(
    tmp_path: Path, layers: tuple[str, ...], complaint: str
) -> None:
    model = write_network(tmp_path, "n", *layers)
    with pytest.raises(UnknownGraphError, match=complaint):
        trim_padding(read_graph(model.param, None), "data", "output", PADDING)


def test_a_network_that_would_give_a_different_picture_of_tiles_is_refused(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(shipped(models_dir, "realesr-animevideov3-x2"))
    assert inspection.inspect(files, threads=2).native_scale == 2

    def shifted(*given: Any) -> TrimmedNetwork:
        made = trim_padding(*given)
        layers = list(made.layers)
        place = next(n for n, layer in enumerate(layers) if layer.kind == "Crop")
        values = {**layers[place].values, 0: (0,), 6: (18,)}  # all of it off the right
        layers[place] = dataclasses.replace(layers[place], values=values)
        return TrimmedNetwork(tuple(layers), made.margin)

    monkeypatch.setattr(ncnn_network, "trim_padding", shifted)
    with pytest.raises(InferenceError, match="gives a different picture"):
        inspection.inspect(files, threads=2)
