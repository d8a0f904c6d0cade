"""A helping device: an idle one of the same model does bands of a large picture too."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from upscaled.engines.pool import HELP, EnginePool, Place, Slot
from upscaled.errors import EngineError
from upscaled.pipeline.open_bands import OpenBands, Rows

log = logging.getLogger(__name__)


class HelpingDevice:
    """Does bands on another device of this machine, only while no job waits for it.

    After each band, a job gets the device first.

    Args:
        pool: has the slots.
        place: where it is.
        job_id: for the log.
        do: lets the engine of a slot do a band.
        on_help: called when it has done a band.
    """

    def __init__(
        self,
        pool: EnginePool,
        place: Place,
        job_id: str,
        *,
        do: Callable[[Slot, Rows], Awaitable[None]],
        on_help: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._place = place
        self._job_id = job_id
        self._do = do
        self._on_help = on_help

    async def help(self, bands: OpenBands) -> None:
        """Do bands while there are any; none after a failure."""
        while bands.untaken:
            if not bands.waiting:
                await bands.changed()
                continue
            async with self._pool.slot(HELP, self._place) as slot:
                if not bands.waiting:
                    continue
                try:
                    await bands.do_next(lambda rows, slot=slot: self._do(slot, rows))  # type: ignore[misc]
                except EngineError as error:
                    log.warning(
                        "a device can't help with a picture",
                        extra={
                            "job": self._job_id,
                            "device": self._place.device.id,
                            "reason": error.message,
                        },
                    )
                    await slot.engine.reset()
                    return
            self._on_help()
