"""Health: whether this service can upscale, by its self-test and by the jobs it does."""

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
"""After a failed self-test; a device that comes back is noticed within this time."""
RECHECK_SECONDS = 3600.0
"""After a passed one, when the service has nothing else to do."""


class HealthState(StrEnum):
    """Whether work is worth sending here."""

    STARTING = "starting"
    OK = "ok"
    FAILING = "failing"


class Health:
    """Keeps track of whether devices work.

    The self-test is run at the start, again when a job's failure casts doubt on the device, and
    now and then. After the first time only when there is nothing else to do: a job that is under
    way tests the device better, and its outcome counts as well.

    Args:
        test: returns the place that works; raises `UpscaledError` where none does.
        is_idle: tells whether no job is waiting or under way.
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
        """Where the last picture that came out right was upscaled."""

    async def known(self) -> HealthState:
        """Wait until the state is no longer ``starting``, then return it."""
        await self._known.wait()
        return self.state

    def worked(self, place: Place) -> None:
        """Note that a verified picture came from ``place``."""
        if self.state is HealthState.FAILING:
            log.info("works again", extra={"device": place.device.id})
        self.state, self.reason, self.place = HealthState.OK, None, place
        self._known.set()

    def doubt(self) -> None:
        """Note that an engine failed a job: the next idle moment shows whether it still works."""
        self._doubt.set()

    async def run(self) -> None:
        """Test, and test again, until cancelled."""
        while True:
            await self.check()
            await self._next_occasion()

    async def check(self) -> None:
        """Run the self-test once."""
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
