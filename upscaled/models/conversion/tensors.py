"""Tensors from untrusted files: their types, sizes and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from upscaled.models.conversion.errors import ConversionError

Weights = Mapping[str, NDArray[np.float32]]
"""Tensors by key, as 32-bit floats in row-major order."""
LARGEST_FILE = 2 << 30
"""Bytes of the largest file that is read; the largest RRDB in use has 67 MB, HAT-L 165 MB."""
MOST_TENSORS = 100_000
_MOST_DIMENSIONS = 8
BFLOAT16 = "bfloat16"


class Allowance:
    """How many numbers the tensors of a file may have in all.

    A file holds at least a byte for each of its numbers. Tensors that share their data could have
    any number of them, and fill the memory.
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = file_bytes

    def take(self, count: int) -> None:
        """Count the ``count`` numbers of a tensor.

        Raises:
            ConversionError: they are more than are left.
        """
        self._left -= count
        if self._left < 0:
            raise ConversionError("The file's tensors are far larger than their data; it is made "
                                  "to fill the memory.")  # fmt: skip


def width_of(kind: str) -> int:
    return 2 if kind == BFLOAT16 else np.dtype(kind).itemsize


def numbers_of(content: bytes | memoryview, kind: str, count: int) -> NDArray[np.float32]:
    """Return ``count`` numbers as 32-bit floats.

    Raises:
        ConversionError: the content has not their length.
    """
    if len(content) != count * width_of(kind):
        raise ConversionError("The file is cut off: some of its weights are not there.")
    if kind == BFLOAT16:  # the upper half of a 32-bit float
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, kind).astype(np.float32)


def whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= LARGEST_FILE:
        raise ConversionError("The file holds an invalid size.")
    return value


def checked_shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_DIMENSIONS:
        raise ConversionError("The file holds a tensor whose shape is invalid.")
    sizes = tuple(whole(size) for size in shape)
    if math.prod(sizes) > LARGEST_FILE:
        raise ConversionError("The file holds a tensor that is too large.")
    return sizes
