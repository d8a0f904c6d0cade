"""Jobs as ``GET /status`` shows them. The JSON is cached while the job stays the same."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from upscaled.api.responses import compact
from upscaled.jobs.description import described
from upscaled.jobs.job import TERMINAL, Job
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
        result_ttl: seconds after a job's end after which its result is deleted.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        outlook: Callable[[str], Outlook | None],
        result_ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outlook = outlook
        self._result_ttl = result_ttl
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
        return {"expires": int(job.finished + self._result_ttl)}

    def _look_ahead(self, made: _Made) -> None:
        outlook = self._outlook(made.job.id)
        made.whole = made.fixed + (b"}" if outlook is None else _foreseen(outlook))
        made.until = self._clock() + _FRESH_SECONDS


def _foreseen(outlook: Outlook) -> bytes:
    """Return the last members of a status and its closing brace."""
    # Tenths: estimates are no better, and clients see them go down.
    seconds = f',"eta_seconds":{outlook.eta_seconds:.1f}}}'
    if outlook.position is None:
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
<<<<<<< HEAD
=======


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _running(job: Job, _: str) -> dict[str, Any]:
    return {"progress": job.progress}


def _completed(job: Job, base: str) -> dict[str, Any]:
    return {
        "progress": job.progress,
        "download_url": Links(base, job.id).download,
        # Hundredths: coarser than the clock's noise.
        "duration_seconds": round(job.duration or 0.0, 2),
        "input_size": _size(job.input_size),
        "output_size": _size(job.request.output_size),
        "file_size_bytes": job.file_size_bytes,
    }


def _failed(job: Job, _: str) -> dict[str, Any]:
    return {"error": job.error}


def _cancelled(_: Job, __: str) -> dict[str, Any]:
    return {}


_DETAILS: Mapping[JobState, Callable[[Job, str], dict[str, Any]]] = {
    JobState.QUEUED: _running,
    JobState.PROCESSING: _running,
    JobState.COMPLETED: _completed,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
}


def _additions(job: Job) -> Iterator[tuple[str, Any]]:
    """Yield the members that are not in the API guide, as far as they have a value."""
    yield "filename", job.input_name
    yield "model_name", job.request.model_name
    if job.request.scale is not None:
        yield "scale", job.request.scale
    if job.client_ref is not None:
        yield "client_ref", job.client_ref
    if job.device is not None:
        yield "device", job.device
    if job.result_gone is not None:
        yield "result_gone", job.result_gone
    if job.attempts:
        yield "attempts", [asdict(attempt) for attempt in job.attempts]


def described(job: Job, base: str) -> dict[str, Any]:
    """Return a job as ``GET /status`` shows it, without forecast; each state has its own fields."""
    return {
        "job_id": job.id,
        "status": job.state.value,
        **_DETAILS[job.state](job, base),
        **dict(_additions(job)),
    }
>>>>>>> d251392 (The page at / and its files, the names and ends of jobs in their status)
