"""Confirmation: what an engine makes of a band that differs from its source, compared by digest.

Some networks repaint noise and pixel art so freely that no limit tells their work from damage. On
the CPU, whose results do not depend on a driver, the band is made again in a fresh process: the
same bytes twice are what the network makes of it. If they differ so much that even that does not
justify them, more attempts with the same network are of no use.
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
"""Whether on the CPU, and the first and the last row of the band."""


class Next(Enum):
    """What is worth trying after an engine's band was refused."""

    SAME_AGAIN = auto()
    """The same in a fresh process, to learn whether the network makes it so."""
    OTHER_TILE = auto()
    OTHER_DEVICE = auto()
    """This kind of device makes the same bytes each time, whatever the tile size."""
    NOTHING = auto()
    """The network makes it so."""


class Confirmation:
    """The refused bands of one job, by digest.

    Args:
        native: what the engines make.
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
        """Note a refused band, and return what to try next.

        GPUs confirm nothing: a driver that corrupts pictures may do so the same way every time.
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
