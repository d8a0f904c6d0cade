"""Reads ncnn's ``.param`` text: the names of a network's input and output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAGIC = "7767517"
"""The first line of every text ``.param`` (ncnn's net.cpp)."""
_LARGEST = 16 << 20
"""Bytes of the largest .param that is read; x4plus's has 117,000."""


_REPEATING = "4=1"
"""Of a layer ``Padding``: it repeats the outermost values (ncnn's padding.cpp)."""


class ParamError(Exception):
    """The file is not a usable ``.param``; the message says why, without a full stop."""


@dataclass(frozen=True)
class BlobNames:
    """The names of a network's input and output, and what it does with edges."""

    input: str
    output: str
    repeats_edges: bool = False
    """It pads its input by repeating the outermost pixels, so a picture's edges are to be
    continued in the same way."""


def read_blob_names(path: Path) -> BlobNames:
    """Return the blobs of the first Input layer and of the last layer; blocking.

    Raises:
        ParamError: not a ``.param``, cut off, or without an input.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ParamError("it is far too large for a .param")
        lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ParamError("it is not a text file") from None
    except OSError as error:
        raise ParamError(f"it can't be read: {error.strerror}") from None
    if len(lines) < 3 or lines[0] != [MAGIC]:
        raise ParamError(f"it is not an ncnn .param, whose first line is {MAGIC}")
    layers = lines[2:]
    try:
        promised = int(lines[1][0])
        outputs = [_outputs(layer) for layer in layers]
    except (ValueError, IndexError):
        raise ParamError("it is damaged: a line of it is invalid") from None
    if promised != len(layers):
        raise ParamError(f"it is cut off: {promised} layers are promised, {len(layers)} are there")
    inputs = [
        blobs for layer, blobs in zip(layers, outputs, strict=True) if layer[0] == "Input" and blobs
    ]
    if not inputs or not outputs[-1]:
        raise ParamError("it has no input or no output")
    padding = next((layer for layer in layers if layer[0] not in {"Input", "Split"}), [])
    repeats = padding[:1] == ["Padding"] and _REPEATING in padding
    return BlobNames(inputs[0][0], outputs[-1][0], repeats)


def _outputs(layer: list[str]) -> list[str]:
    """Return the output blobs of a line: type, name, counts in and out, blobs in, blobs out, …"""
    taken, given = int(layer[2]), int(layer[3])
    blobs = layer[4 + taken : 4 + taken + given]
    if taken < 0 or len(blobs) != given:
        raise ValueError
    return blobs
