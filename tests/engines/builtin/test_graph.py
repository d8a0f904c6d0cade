"""Reading ncnn's files as a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from testkit.networks import shipped, write_network
from upscaled.engines.builtin.graph import (
    Layer,
    UnknownGraphError,
    operations,
    param_text,
    read_graph,
)
from upscaled.pictures import Size

CONVOLUTION = "Convolution c 1 1 data made 0=2 1=3 4=1 5=1 6=54"
LAST = "PReLU p 1 1 made output 0=2"


def stored(mark: int = 0) -> bytes:
    """Return the weights of a convolution and a PReLU: 0, 1, 2, … in their order."""
    numbers = np.arange(58, dtype=np.float32)
    kernel = numbers[:54].astype(np.float16) if mark else numbers[:54]
    return mark.to_bytes(4, "little") + kernel.tobytes() + numbers[54:].tobytes()


@pytest.mark.parametrize("mark", [0, 0x01306B47])
def test_layers_come_with_their_weights_in_16_or_32_bits(tmp_path: Path, mark: int) -> None:
    made = write_network(tmp_path, "n", CONVOLUTION, LAST)
    made.bin.write_bytes(stored(mark))
    convolution, prelu = read_graph(made.param, made.bin)
    assert (convolution.inputs, convolution.outputs) == (("data",), ("made",))
    kernel, bias = convolution.weights
    assert kernel.shape == (2, 3, 3, 3)
    assert np.array_equal(kernel.reshape(-1), np.arange(54))
    assert bias.tolist() == [54, 55]
    assert [slopes.tolist() for slopes in prelu.weights] == [[56, 57]]
    assert operations((convolution, prelu), "data", Size(10, 7)) == 2 * 54 * 70


@pytest.mark.parametrize(
    ("layer", "content", "complaint"),
    [
        ("Softmax s 1 1 data output 0=0", b"", "Softmax is not a layer that is known."),
        ("Convolution c 1 1 data output 0=2 1=3 3=2 4=1 5=1 6=54", stored(), "kind that is not"),
        ("Convolution c 1 1 data output 0=2 1=3 4=0 5=1 6=54", stored(), "kind that is not known"),
        ("Interp i 1 1 data output 0=2 1=2.0 2=2.0", b"", "kind that is not known"),
        ("BinaryOp b 1 1 data output 0=3 1=1 2=2.0", b"", "kind that is not known"),
        ("BinaryOp b 2 1 data data output 0=0 1=1 2=1.0", b"", "kind that is not known"),
        ("MemoryData m 0 1 output 0=4 1=4 2=3", b"", "kind that is not known"),
        ("Convolution c 1 1 data output 0=2, 1=3 4=1 5=1 6=54", stored(), "line is invalid"),
        ("Convolution c 1 1 data output 0=2 1=3 4=1 5=1", stored(), "line is invalid"),
        ("Softmax s 1 1 data output 0=what", b"", "Softmax is not a layer that is known."),
        ("PReLU", b"", "line is invalid: 'PReLU'"),
        ("Split s 1 0 data", b"", "line is invalid"),
        ("Split s 0 1 output", b"", "line is invalid"),
        ("Split s 1 2 data output", b"", "line is invalid"),
        ("PixelShuffle p 1 1 data output 0=0", b"", "kind that is not known"),
        ("Interp i 1 1 data output 0=1 1=0.0 2=0.0", b"", "kind that is not known"),
        (CONVOLUTION, stored()[:-16], "n.bin is too short."),
        (CONVOLUTION, stored(), "n.bin holds 8 bytes more than known."),
        (CONVOLUTION, b"\x38\x4b\x0d\x00" + stored()[4:], "stores weights in a way that is not"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, layer: str, content: bytes, complaint: str
) -> None:
    made = write_network(tmp_path, "n", layer)
    made.bin.write_bytes(content)
    with pytest.raises(UnknownGraphError, match=complaint):
        read_graph(made.param, made.bin)


def test_the_largest_official_network_is_read_to_its_end(models_dir: Path) -> None:
    files = shipped(models_dir, "realesrgan-x4plus")
    layers = read_graph(files.param, files.bin)
    assert sum(layer.kind == "Convolution" for layer in layers) == 351
    assert 1.1e6 < operations(layers, files.input_blob, Size(1, 1)) / 32 < 1.2e6


@pytest.mark.parametrize(
    "stem", ["realesr-animevideov3-x3", "realesrgan-x4plus", "realesrgan-x4plus-anime"]
)
def test_layers_are_written_as_they_were_read(tmp_path: Path, models_dir: Path, stem: str) -> None:
    layers = read_graph(shipped(models_dir, stem).param, None)
    again = tmp_path / "again.param"
    again.write_text(param_text(layers, "data"))
    assert read_graph(again, None) == layers


def test_numbers_are_written_so_that_every_release_of_ncnn_reads_them() -> None:
    values = {0: (1,), 1: (1.234567e-4, 1.0)}
    text = param_text([Layer("Eltwise", ("a", "b"), ("c",), values)], "data")
    assert text == (
        "7767517\n2 2\nInput in 0 1 data\n"
        "Eltwise layer0 2 1 a b c 0=1 -23301=2,1.23456700e-04,1.00000000e+00\n"
    )


def test_a_file_that_is_no_text_is_not_understood(tmp_path: Path) -> None:
    damaged = tmp_path / "n.param"
    damaged.write_bytes(b"7767517\n1 1\n\xff\xfe what\n")
    with pytest.raises(UnknownGraphError, match="line is invalid"):
        read_graph(damaged, None)
