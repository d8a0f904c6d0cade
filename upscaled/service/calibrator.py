"""The calibrator: measures the networks that are used, while the service is idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from upscaled.config.settings import Config
from upscaled.engines.builtin.calibration import BusyError, Calibration
from upscaled.engines.builtin.cpu_library import CpuLibrary, possible_libraries
from upscaled.engines.builtin.cpu_methods import CpuMethods
from upscaled.engines.selection import EngineChoice, cpu_threads, worker_memory_mb
from upscaled.errors import UpscaledError
from upscaled.jobs.registry import JobRegistry
from upscaled.pipeline.pipeline import Pipeline
from upscaled.service.model_imports import ModelImports
from upscaled.service.previews import Previews
from upscaled.service.submission import Submissions

log = logging.getLogger(__name__)

QUIET_SECONDS = 5.0
"""How long the service must have been idle before a network is measured."""


BUSY_SECONDS = 60.0
"""Pause after other programs kept the processor busy; doubles each time."""
_MOST_BUSY_SECONDS = 1800.0


class Calibrator:
    """Measures one network after the other; stops at once when there is something to do.

    Args:
        methods: keeps what was measured, and knows which networks are wanted.
        is_idle: returns whether there is nothing to do.
        meet_default: registers the default model's network with ``methods``.
        libraries: that can be used here.
        cores: threads of the engine.
        memory_mb: MiB that the measuring process may hold; None: half of the machine's.
    """

    def __init__(
        self,
        methods: CpuMethods,
        is_idle: Callable[[], bool],
        meet_default: Callable[[], Awaitable[None]],
        libraries: tuple[CpuLibrary, ...],
        cores: int,
        memory_mb: int | None,
    ) -> None:
        self._methods = methods
        self._is_idle = is_idle
        self._meet_default = meet_default
        self._libraries = libraries
        self._cores = cores
        self._memory_mb = memory_mb
        self._disturbed = asyncio.Event()
        self._begun: dict[str, Calibration] = {}
        self._pause = 0.0
        """Seconds to wait because the machine was busy; 0: it was not."""

    def disturb(self) -> None:
        """Stop measuring since a picture arrives; finished measurements are kept."""
        self._disturbed.set()

    async def run(self) -> None:
        """Measure what is wanted, whenever the service is idle; runs until cancelled."""
        await self._until_idle()
        try:
            await self._meet_default()
        except UpscaledError as error:  # other models may still be used
            log.info("the default model is not measured", extra={"reason": error.message})
        while True:
            await self._until_idle()
            if self._methods.wanted:
                await self._measure(next(iter(self._methods.wanted)))
                await asyncio.sleep(self._pause)

    async def _until_idle(self) -> None:
        """Wait until nothing has happened for a while."""
        while True:
            self._disturbed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._disturbed.wait()
                continue
            if self._is_idle():
                return

    async def _measure(self, key: str) -> None:
        """Measure a network; returns without a result when it is disturbed."""
        model = self._methods.wanted[key]
        calibration = self._begun.setdefault(
            key, Calibration(model, self._libraries, self._cores, self._memory_mb)
        )
        began = time.monotonic()
        measuring = asyncio.create_task(calibration.run(), name=f"calibrate-{model.stem}")
        disturbed = asyncio.create_task(self._disturbed.wait(), name="calibration-disturbed")
        try:
            await asyncio.wait({measuring, disturbed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (measuring, disturbed):
                task.cancel()
            await asyncio.wait({measuring, disturbed})
        if measuring.cancelled():
            return
        if isinstance(measuring.exception(), BusyError):
            self._pause = min(max(2 * self._pause, BUSY_SECONDS), _MOST_BUSY_SECONDS)
            self._methods.wanted.move_to_end(key)
            if not self._methods.known(key):
                await self._methods.put(key, calibration.table)
            log.info(
                "other programs keep the processor busy; measuring is postponed",
                extra={"model": model.stem, "seconds": self._pause},
            )
            return
        self._pause = 0.0
        del self._begun[key]
        if (error := measuring.exception()) is not None:
            self._methods.wanted.pop(key, None)  # wanted again when it is used again
            log.error("a network can't be measured", exc_info=error, extra={"model": model.stem})
            return
        await self._methods.put(key, measuring.result())
        best = self._methods.best(key)
        log.info(
            "network measured",
            extra={
                "model": model.stem,
                "library": best.library if best else None,
                "seconds": round(time.monotonic() - began, 1),
            },
        )


async def make_calibrator(
    config: Config,
    choice: EngineChoice,
    methods: CpuMethods,
    pipeline: Pipeline,
    submissions: Submissions,
    previews: Previews,
    imports: ModelImports,
    registry: JobRegistry,
) -> Calibrator:
    """Return the calibrator of a service; it stops measuring when a picture arrives."""

    def is_idle() -> bool:
        return submissions.is_idle and not (
            previews.being_made or imports.busy or registry.active()
        )

    async def meet_default() -> None:
        await pipeline.meet_default(config.upscaler.default_model, config.upscaler.default_scale)

    engine_mb = worker_memory_mb(config, choice)
    calibrator = Calibrator(
        methods,
        is_idle,
        meet_default,
        await asyncio.to_thread(possible_libraries),
        cpu_threads(config),
        # The engine keeps networks loaded meanwhile.
        None if engine_mb is None else engine_mb // 2,
    )
    submissions.on_arrival = calibrator.disturb
    return calibrator
