"""`StripEncoder`: the interface of encoders that write a file a strip at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from upscaled.imaging.raw import Pixels
from upscaled.imaging.result import FinishOptions

DEFAULT_QUALITY = 95
"""Enlarged pictures are viewed closely and often edited further."""


@dataclass(frozen=True)
class EncodedStrip:
    """The part of a file that holds some rows."""

    content: bytes
    check: int = 0
    """The strip's part of the checksum in the encoder's state, …"""
    length: int = 0
    """… and the number of bytes it covers."""


class StripEncoder(Protocol):
    """Makes the parts of a file: head, strips of rows, tail.

    Strips are independent, so they can be encoded in parallel, and by several processes in turn.
    The only thing that depends on earlier strips is the state, a number.
    """

    @property
    def multiple(self) -> int:
        """Factor of the height of every strip but the last."""
        ...

    @property
    def start(self) -> int:
        """The state before the first strip."""
        ...

    def head(self) -> bytes:
        """Return the bytes before the pixels."""
        ...

    def strip(self, pixels: Pixels, top: int) -> EncodedStrip:
        """Encode ``pixels``, rows × columns × channels, which begin at row ``top``.

        Raises:
            EngineError: decoded again it is not what was encoded.
        """
        ...

    def opened(self, strip: EncodedStrip, top: int, bottom: int) -> Pixels:
        """Return the pixels of rows ``top`` to ``bottom``, which are encoded in ``strip``.

        Raises:
            EngineError: it does not hold them.
        """
        ...

    def joined(self, state: int, strip: EncodedStrip) -> int:
        """Return the state after ``strip``."""
        ...

    def tail(self, state: int) -> bytes:
        """Return the bytes after the pixels."""
        ...


def quality_of(options: FinishOptions) -> int:
    """Return the quality to encode with, 1 to 100."""
    return DEFAULT_QUALITY if options.quality is None else options.quality


def mean_error_allowed(quality: int) -> float:
    """Return by how many levels lossy coding may move the local mean of a channel.

    A JPEG's mean is a multiple of its coarsest step divided by eight. That step is the table's
    first entry, 17, scaled as libjpeg scales it, and at most 255. The largest error is half a
    multiple, and blue gets 1.772 times the error of its colour difference (ITU-T T.871). The same
    limit is used for WebP.
    """
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    step = min(255.0, max(1.0, 17 * percent / 100))
    return 4.0 + step / 8 / 2 * 2.772
