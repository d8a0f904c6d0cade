"""Alternatives: finds other models that get a part right that one model gets wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from upscaled.engines.engine import ModelFiles, UpscaleTask
from upscaled.engines.pool import EnginePool, Place
from upscaled.errors import UpscaledError
from upscaled.imaging import Band, Imaging, UnlikeError
from upscaled.models.catalog import ModelCatalog
from upscaled.pictures import RawImage, Size

log = logging.getLogger(__name__)

_SIDE = 96
"""Side in pixels of the part that is tried: the slowest network takes seconds for it on one
core."""
_PARTS = 16
"""Parts of the band that are searched for one that is wrong."""
_MODELS = 4
_SECONDS = 90.0
"""Limit for all trials together."""


@dataclass(frozen=True)
class Refused:
    """A refused band: its source, its enlargement, and where it was made."""

    source: RawImage
    native: RawImage
    band: Band
    model_name: str
    place: Place
    folder: Path


class Alternatives:
    """Tries the other installed models on a small part of a refused band."""

    def __init__(self, imaging: Imaging, pool: EnginePool, models: ModelCatalog) -> None:
        self._imaging = imaging
        self._pool = pool
        self._models = models

    async def refusal(
        self, error: UnlikeError, refused: Refused, factor: float, rank: float
    ) -> UnlikeError:
        """Return the final error for a band that its model gets wrong, naming those that do not."""
        better = await self.better(refused, factor, rank)
        if better:
            advice = f"Use model_name={' or model_name='.join(better)}, which passes there."
        elif better is not None:
            advice = "The other installed models that were tried do not pass there either."
        else:
            advice = "Use another model."
        return UnlikeError(
            f"{error.message} {refused.model_name} makes the same picture each time, so it is not "
            f"tried again. {advice}",
            retryable=False,
        )

    async def better(self, refused: Refused, factor: float, rank: float) -> list[str] | None:
        """Return the names of the models that pass where this one fails; None if none was tried.

        Args:
            refused: the first model's band.
            factor: how many times as wide as the picture the result is.
            rank: order in which the trials get a slot, see `EnginePool.slot`.
        """
        others = [m for m in self._models.models if m.name != refused.model_name][:_MODELS]
        passed: list[str] = []
        tried = False
        try:
            async with asyncio.timeout(_SECONDS):
                part = await self._wrong_part(refused) if others else None
                for model in others if part else ():
                    assert part is not None  # noqa: S101 - the loop's condition
                    files = model.files_for(factor)
                    if await self._passes(files, part, refused, rank):
                        passed.append(model.name)
                    tried = True
        except (TimeoutError, UpscaledError, OSError) as error:
            log.info("other models were not all tried", extra={"reason": str(error)})
        return passed if tried else None

    async def _wrong_part(self, refused: Refused) -> RawImage | None:
        """Return a part of the source, as a file, whose enlargement is wrong; None if there is
        none.
        """
        source, native = refused.source, refused.native
        scale = native.size.width // source.size.width
        for number, (left, top, width, height) in enumerate(_parts(source.size, refused.band)):
            if number == _PARTS:
                break
            part = RawImage(refused.folder / "part.rgb", Size(width, height))
            made = RawImage(refused.folder / "part.native", part.size.times(scale))
            await asyncio.to_thread(_cut, source, part, left, top)
            await asyncio.to_thread(_cut, native, made, left * scale, top * scale)
            try:
                await self._imaging.check(part, made, 0, height)
            except UnlikeError:
                return part
        return None

    async def _passes(
        self, model: ModelFiles, part: RawImage, refused: Refused, rank: float
    ) -> bool:
        target = replace(
            part, path=refused.folder / "part.native", size=part.size.times(model.native_scale)
        )
        await asyncio.to_thread(_make, target)
        task = UpscaleTask(
            part, target, model, top=0, bottom=part.size.height, workdir=refused.folder
        )
        async with self._pool.slot(rank, refused.place) as slot:
            await slot.engine.upscale(task, lambda _: None)
        try:
            await self._imaging.check(part, target, 0, part.size.height)
        except UnlikeError:
            return False
        return True


def _parts(size: Size, band: Band) -> Iterator[tuple[int, int, int, int]]:
    """Yield (left, top, width, height) of the parts of a band."""
    width, height = min(_SIDE, size.width), min(_SIDE, band.bottom - band.top)
    for top in range(band.top, band.bottom, _SIDE):
        for left in range(0, size.width, _SIDE):
            yield min(left, size.width - width), min(top, band.bottom - height), width, height


def _cut(whole: RawImage, part: RawImage, left: int, top: int) -> None:
    pixel = whole.channels
    with whole.path.open("rb") as source, part.path.open("wb") as target:
        for row in range(top, top + part.size.height):
            source.seek(row * whole.row_bytes + left * pixel)
            target.write(source.read(part.row_bytes))


def _make(raw: RawImage) -> None:
    with raw.path.open("wb") as file:
        file.truncate(raw.total_bytes)
