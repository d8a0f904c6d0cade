"""The self-test: upscales a tiny picture with a real engine and verifies it like any other."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from upscaled.engines.engine import UpscaleTask
from upscaled.engines.pool import EnginePool, Place
from upscaled.errors import EngineError, UpscaledError
from upscaled.imaging import PLAUSIBLE_LIMIT, Imaging
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.pictures import RawImage, Size

log = logging.getLogger(__name__)

_SIDE = 16
"""Side in pixels: with its padding one tile, 0.3 s with the largest official model on two cores."""
_SECONDS = 300.0
"""How long a device may take, including its start; a software GPU needs 20 s. Waiting for a job
that holds the device does not count."""
_FIRST = -1.0
"""Jobs wait for slots in the order of their ranks, from 0; the self-test comes before all of
them."""


class SelfTest:
    """Tries the places where jobs run, best first, until one works."""

    def __init__(
        self,
        pool: EnginePool,
        models: ModelCatalog,
        imaging: Imaging,
        workspace: Workspace,
        default_model: str,
    ) -> None:
        self._pool = pool
        self._models = models
        self._imaging = imaging
        self._workspace = workspace
        self._default_model = default_model

    async def run(self) -> Place:
        """Return the first place that upscales a tiny picture correctly.

        Raises:
            EngineError: none does; the message has each place's failure.
        """
        model = await self._model()
        failures = []
        for place in self._pool.all_places:
            began = time.monotonic()
            where = {"device": place.device.id, "engine": place.engine}
            try:
                async with self._workspace.borrowed() as folder:
                    await self._try(place, model, folder)
            except TimeoutError:
                reason = f"no result within {_SECONDS:g} s"
            except UpscaledError as error:
                reason = error.message
            except OSError as error:
                reason = f"the data folder can't be used: {error.strerror}"
            else:
                seconds = round(time.monotonic() - began, 2)
                log.info("self-test passed", extra={**where, "seconds": seconds})
                return place
            log.warning("self-test failed", extra={**where, "reason": reason})
            failures.append(f"{place.device.id} ({place.engine}): {reason}")
        raise EngineError(f"No device can upscale. {' '.join(failures)}")

    async def _model(self) -> Model:
        """Return the default model, or any other if it is missing."""
        await self._models.rescan()
        models = {model.name: model for model in self._models.models}
        if not models:
            raise EngineError("There is no model; `upscaled models install` puts them there.")
        return models.get(self._default_model) or next(iter(models.values()))

    async def _try(self, place: Place, model: Model, folder: Path) -> None:
        size = Size(_SIDE, _SIDE)
        network = model.files_for(max(model.supported_scales))
        source = RawImage(folder / "source.rgb", size)
        target = RawImage(folder / "native.rgb", size.times(network.native_scale))
        await asyncio.to_thread(source.path.write_bytes, _picture())
        await asyncio.to_thread(target.path.write_bytes, bytes(target.total_bytes))
        task = UpscaleTask(source, target, network, top=0, bottom=_SIDE, workdir=folder)
        async with self._pool.slot(_FIRST, place) as slot, asyncio.timeout(_SECONDS):
            await slot.engine.upscale(task, lambda _progress: None)
        await self._imaging.check(source, target, 0, _SIDE, limit=PLAUSIBLE_LIMIT)


def _picture() -> bytes:
    """Return a picture with colour and gradients, so that a blank or shifted result is noticed."""
    steps = range(_SIDE)
    # Half of each channel's range: networks change saturated colours.
    return bytes(64 + value for y in steps for x in steps for value in (8 * x, 8 * y, 4 * (x + y)))
