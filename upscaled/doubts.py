"""Doubts: pictures that verification neither trusts nor refuses outright.

Some networks repaint noise and pixel art so freely that no limit tells their work from damage.
On the CPU, whose results do not depend on a driver, such a doubt is settled by doing the work
again in a fresh process: twice the same picture, byte for byte, is what the network makes.
"""

from __future__ import annotations

from upscaled.digests import sha256_of
from upscaled.engines.pool import Place
from upscaled.pictures import RawImage


class Doubts:
    """The doubtful pictures of one job, by where and with which tile size they were made."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Place, int], str] = {}

    async def settled(self, place: Place, tile_size: int, native: RawImage) -> bool:
        """Tell whether ``native`` equals the doubtful picture of an earlier process here."""
        earlier = self._seen.get((place, tile_size))
        return earlier is not None and earlier == await sha256_of(native.path)

    async def can_be_settled(self, place: Place, tile_size: int, native: RawImage) -> bool:
        """Note a doubtful picture; true when doing it again could settle the doubt.

        A GPU is no witness in its own case: a driver that corrupts does so every time.
        """
        if not place.is_cpu or (place, tile_size) in self._seen:
            return False
        self._seen[place, tile_size] = await sha256_of(native.path)
        return True
