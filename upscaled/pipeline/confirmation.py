"""Confirmation: decides by digest whether a band that differs from its source is correct.

Some networks repaint noise and pixel art so freely that no limit separates this from damage. The
CPU's results do not depend on a driver. So a doubtful band is made again there in a fresh process.
If both have the same bytes, this is the network's output. If it differs too much even so, further
attempts with the same network are useless.
"""

from __future__ import annotations

import asyncio
import hashlib
from enum import Enum, auto

from upscaled.engines.pool import Place
from upscaled.imaging import Band
from upscaled.pictures import RawImage

_BLOCK = 1 << 20
_Key = tuple[bool, int, int]
"""Whether it was made on the CPU, then the first and last row of the band."""


class Next(Enum):
    """The next step after an engine's band was refused."""

    SAME_AGAIN = auto()
    """Repeat it in a fresh process, to see whether the output is the same."""
    OTHER_TILE = auto()
    OTHER_DEVICE = auto()
    """Use another kind of device; this one makes the same bytes with any tile size."""
    NOTHING = auto()
    """Give up: this is the network's output."""


class Confirmation:
    """Digests of the refused bands of one job.

    Args:
        native: the engines' output.
        scale: native rows for each row of the source.
    """

    def __init__(self, native: RawImage, scale: int) -> None:
        self._native = native
        self._scale = scale
        self._digests: dict[_Key, set[str]] = {}
        self._repeated: set[tuple[Place, int, int, int]] = set()

    async def is_confirmed(self, place: Place, band: Band) -> bool:
        """Tell whether an earlier process on the CPU made the same bytes for the band."""
        digests = self._digests.get((True, band.top, band.bottom))
        return place.is_cpu and digests is not None and await self._digest(band) in digests

    async def refused(self, place: Place, tile_size: int, band: Band) -> Next:
        """Record a refused band, and return what to try next.

        GPUs confirm nothing: a faulty driver may corrupt pictures the same way every time.
        """
        digest = await self._digest(band)
        digests = self._digests.setdefault((place.is_cpu, band.top, band.bottom), set())
        if digest in digests:
            return Next.NOTHING if place.is_cpu else Next.OTHER_DEVICE
        digests.add(digest)
        attempt = (place, tile_size, band.top, band.bottom)
        if not place.is_cpu or attempt in self._repeated:
            return Next.OTHER_TILE
        self._repeated.add(attempt)
        return Next.SAME_AGAIN

    async def _digest(self, band: Band) -> str:
        return await asyncio.to_thread(self._sha256, band)

    def _sha256(self, band: Band) -> str:
        row_bytes = self._native.row_bytes * self._scale
        digest, left = hashlib.sha256(), (band.bottom - band.top) * row_bytes
        with self._native.path.open("rb") as file:
            file.seek(band.top * row_bytes)
            while left and (content := file.read(min(left, _BLOCK))):
                digest.update(content)
                left -= len(content)
        return digest.hexdigest()
