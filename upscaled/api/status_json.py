"""Jobs as ``GET /status`` shows them. The JSON is cached while the job stays the same."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from upscaled.api.responses import compact
from upscaled.config.settings import StorageSettings
from upscaled.jobs.description import described
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.timing.forecast import Outlook
from upscaled.timing.speeds import Quicker

_REMEMBERED = 1024
"""Cached jobs, about a kilobyte each."""
_FRESH_SECONDS = 0.1
"""Estimates are shown in tenths of a second, so they are not computed more often."""


@dataclass(slots=True)
class _Made:
    """A job's JSON, and how long it may be used."""

    job: Job
    fixed: bytes
    """All but what changes with time, up to the closing brace."""
    whole: bytes
    until: float


class StatusRenderer:
    """Renders jobs as JSON.

    Args:
        outlook: estimates when a job will be ready; None for one that has ended.
        storage: how long results are kept.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        outlook: Callable[[str], Outlook | None],
        storage: StorageSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outlook = outlook
        self._result_ttl = storage.result_ttl_hours * 3600
        self._grace = storage.grace_minutes * 60 if storage.delete_after_download else None
        self._clock = clock
        self._made: OrderedDict[tuple[str, str], _Made] = OrderedDict()

    def render(self, job: Job, base: str) -> bytes:
        """Return a job as JSON, with links that start with ``base``."""
        made = self._made.get((base, job.id))
        # Jobs are immutable: the same object has the same JSON.
        if made is None or made.job is not job:
            made = self._describe(job, base)
        elif made.until <= self._clock():
            self._look_ahead(made)
        return made.whole

    def _describe(self, job: Job, base: str) -> _Made:
        fixed = compact(described(job, base) | self._until(job))[:-1]
        made = self._made[base, job.id] = _Made(job, fixed, fixed + b"}", math.inf)
        self._made.move_to_end((base, job.id))
        if len(self._made) > _REMEMBERED:
            self._made.popitem(last=False)
        if job.state not in TERMINAL:
            self._look_ahead(made)
        return made

    def _until(self, job: Job) -> dict[str, int]:
        """Return the member that tells until when a result is kept, while there is one."""
        if job.state is not JobState.COMPLETED or job.result_gone or job.finished is None:
            return {}
        expires = job.finished + self._result_ttl
        if job.delivered is not None and self._grace is not None:
            expires = min(expires, job.delivered + self._grace)
        return {"expires": int(expires)}

    def _look_ahead(self, made: _Made) -> None:
        outlook = self._outlook(made.job.id)
        made.whole = made.fixed + (b"}" if outlook is None else _foreseen(made.job, outlook))
        made.until = self._clock() + _FRESH_SECONDS


def _foreseen(job: Job, outlook: Outlook) -> bytes:
    """Return the last members of a status and its closing brace."""
    # Tenths: estimates are no better, and clients see them go down.
    seconds = f',"eta_seconds":{outlook.eta_seconds:.1f}}}'
    # The forecast learns of a start slightly later than the record.
    if outlook.position is None or job.state is not JobState.QUEUED:
        return seconds.encode()
    return f',"queue_position":{outlook.position}{seconds}'.encode()


def quicker_json(quicker: Quicker | None) -> dict[str, Any]:
    """Return the member that names a much quicker model, if there is one."""
    if quicker is None:
        return {}
    return {
        "quicker": {
            "model_name": quicker.model_name,
            "description": quicker.description,
            "seconds": max(0.1, round(quicker.seconds, 1)),
        }
    }
