"""The plain nouns of a picture: its size, a limit of it, and pixels as a headerless file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from upscaled.errors import BadRequestError


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
class SizeLimit:
    """Pictures below it are taken; None: any."""

    width: int | None = None
    height: int | None = None
    pixels: float | None = None

    @classmethod
    def parse(cls, text: str, name: str = "--only-below") -> SizeLimit:
        """Return the limit that ``1600x1200``, ``2MP`` or ``2`` means; the latter in megapixels.

        Args:
            text: the limit.
            name: of the option or field, for the error.

        Raises:
            BadRequestError: it is none of these.
        """
        if sides := re.fullmatch(r"(\d{1,6})\s*[x×]\s*(\d{1,6})", text.strip(), re.IGNORECASE):
            return cls(int(sides[1]), int(sides[2]))
        if area := re.fullmatch(r"(\d{1,6}(?:[.]\d{1,6})?)\s*(?:MP)?", text.strip(), re.IGNORECASE):
            return cls(pixels=float(area[1]) * 1_000_000)
        raise BadRequestError(
            f"{name} is {text[:64]!r}; it must be a size such as 1600x1200, or megapixels "
            "such as 2MP."
        )

    def takes(self, size: Size) -> bool:
        """Tell whether a picture is below the limit: both sides, in either orientation."""
        if self.pixels is not None:
            return size.pixels < self.pixels
        if self.width is None or self.height is None:
            return True
        longer, shorter = max(self.width, self.height), min(self.width, self.height)
        return max(size.width, size.height) < longer and min(size.width, size.height) < shorter


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
