"""Health: whether this service can upscale, according to its self-test and its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum

from upscaled.engines.pool import Place
from upscaled.errors import UpscaledError

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Pause after a failed self-test; a repaired device is noticed within this time."""
RECHECK_SECONDS = 3600.0
"""Pause after a passed self-test, while the service is idle."""


class HealthState(StrEnum):
    """Whether this service can do work."""

    STARTING = "starting"
    OK = "ok"
    FAILING = "failing"


class Health:
    """Keeps track of whether devices work.

    The self-test runs at the start, after a job's failure casts doubt on the device, and
    periodically. After the first time it runs only when the service is idle: an active job tests
    the device better, and its outcome counts too.

    Args:
        test: returns the place that works; raises `UpscaledError` if none does.
        is_idle: returns whether no job is waiting or active.
    """

    def __init__(self, test: Callable[[], Awaitable[Place]], is_idle: Callable[[], bool]) -> None:
        self._test = test
        self._is_idle = is_idle
        self._doubt = asyncio.Event()
        self._known = asyncio.Event()
        self.state = HealthState.STARTING
        self.reason: str | None = None
        """Why the state is ``failing``, as a sentence."""
        self.place: Place | None = None
        """Where the last correct picture was upscaled."""

    async def known(self) -> HealthState:
        """Wait until the state is no longer ``starting``, then return it."""
        await self._known.wait()
        return self.state

    def worked(self, place: Place) -> None:
        """Record that a verified picture was made at ``place``."""
        if self.state is HealthState.FAILING:
            log.info("works again", extra={"device": place.device.id})
        self.state, self.reason, self.place = HealthState.OK, None, place
        self._known.set()

    def doubt(self) -> None:
        """Record that an engine failed a job; the next idle moment shows whether it still works."""
        self._doubt.set()

    async def run(self) -> None:
        """Repeat the self-test until cancelled."""
        while True:
            await self.check()
            await self._next_occasion()

    async def check(self) -> None:
        self._doubt.clear()
        try:
            place = await self._test()
        except UpscaledError as error:
            self._failed(error.message)
            log.error("this service can't upscale", extra={"reason": error.message})
        except Exception:
            self._failed("The self-test ended unexpectedly; the server's log has more.")
            log.exception("the self-test ended unexpectedly")
        else:
            self.worked(place)

    def _failed(self, reason: str) -> None:
        self.state, self.reason = HealthState.FAILING, reason
        self._known.set()

    async def _next_occasion(self) -> None:
        urgent = self.state is HealthState.FAILING
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if urgent else RECHECK_SECONDS):
                    await self._doubt.wait()
                    urgent = True
            self._doubt.clear()
            if self._is_idle():
                return
