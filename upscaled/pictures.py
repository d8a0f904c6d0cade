"""The plain nouns of a picture: its size, and its pixels as a headerless file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def times(self, factor: int) -> Size:
        """Return the size ``factor`` times as wide and as high."""
        return Size(self.width * factor, self.height * factor)

    def __str__(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True)
class RawImage:
    """A headerless file of 8-bit samples: rows top to bottom, pixels left to right, interleaved."""

    path: Path
    size: Size
    channels: int = 3

    @property
    def row_bytes(self) -> int:
        """Length of one row in bytes."""
        return self.channels * self.size.width

    @property
    def total_bytes(self) -> int:
        """Length of the file in bytes."""
        return self.row_bytes * self.size.height
