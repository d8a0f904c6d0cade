"""Confirmation: bands that verification neither trusts nor refuses outright.

Some networks repaint noise and pixel art so freely that no limit tells their work from damage.
On the CPU, whose results do not depend on a driver, such a doubt is settled by doing the work
again in a fresh process: twice the same pixels, byte for byte, is what the network makes.
"""

from __future__ import annotations

import asyncio
import hashlib

from upscaled.engines.pool import Place
from upscaled.imaging import Band
from upscaled.pictures import RawImage

_BLOCK = 1 << 20


class Confirmation:
    """The doubtful bands of one job, by where and with which tile size they were made.

    Args:
        native: what the engines make.
        scale: native rows for each row of the source.
    """

    def __init__(self, native: RawImage, scale: int) -> None:
        self._native = native
        self._scale = scale
        self._seen: dict[tuple[Place, int, int, int], str] = {}

    async def settled(self, place: Place, tile_size: int, band: Band) -> bool:
        """Tell whether the band equals the doubtful one of an earlier process here."""
        earlier = self._seen.get((place, tile_size, band.top, band.bottom))
        return earlier is not None and earlier == await self._digest(band)

    async def can_be_settled(self, place: Place, tile_size: int, band: Band) -> bool:
        """Note a doubtful band; true when doing it again could settle the doubt.

        A GPU is no witness in its own case: a driver that corrupts does so every time.
        """
        key = (place, tile_size, band.top, band.bottom)
        if not place.is_cpu or key in self._seen:
            return False
        self._seen[key] = await self._digest(band)
        return True

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
