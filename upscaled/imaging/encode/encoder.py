"""What an encoder offers that makes a file a strip at a time, and what all of them go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from upscaled.imaging.raw import Pixels
from upscaled.imaging.result import FinishOptions

DEFAULT_QUALITY = 95
"""Enlarged pictures are meant to be looked at closely and are often edited further."""


@dataclass(frozen=True)
class EncodedStrip:
    """The part of a file that holds some rows."""

    content: bytes
    check: int = 0
    """What an encoder sums up over all strips in its state, …"""
    length: int = 0
    """… and of how many bytes."""


class StripEncoder(Protocol):
    """Makes the parts of a file: head, strips of rows, tail.

    Strips know nothing of one another, so they can be made in parallel, and by several processes
    one after the other. All that must be known of those before is the state, a number.
    """

    @property
    def multiple(self) -> int:
        """What the height of every strip but the last must be a multiple of."""
        ...

    @property
    def start(self) -> int:
        """The state before the first strip."""
        ...

    def head(self) -> bytes:
        """Return what stands before the pixels."""
        ...

    def strip(self, pixels: Pixels, top: int) -> EncodedStrip:
        """Encode ``pixels``, rows × columns × channels, which begin at row ``top``.

        Raises:
            EngineError: decoded again it is not what was encoded.
        """
        ...

    def joined(self, state: int, strip: EncodedStrip) -> int:
        """Return the state after a strip."""
        ...

    def tail(self, state: int) -> bytes:
        """Return what stands behind the pixels."""
        ...


def quality_of(options: FinishOptions) -> int:
    """Return the quality to encode with, 1 to 100."""
    return DEFAULT_QUALITY if options.quality is None else options.quality


def mean_error_allowed(quality: int) -> float:
    """Return how far the local mean of a channel may move by lossy coding, in levels.

    A JPEG's mean is a multiple of its coarsest step over eight: the table's first entry, 17,
    scaled as libjpeg scales it, at most 255; half of that is the largest error, and blue gains
    1.772 times the error of its colour difference (ITU-T T.871). WebP is held to the same.
    """
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    step = min(255.0, max(1.0, 17 * percent / 100))
    return 4.0 + step / 8 / 2 * 2.772
