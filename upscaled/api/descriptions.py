"""Jobs as ``GET /status`` shows them: JSON that is made once as long as the job stays the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from upscaled.api.answers import compact
from upscaled.forecast import Outlook
from upscaled.jobs import Job, JobState
from upscaled.pictures import Size

_REMEMBERED = 1024
"""Descriptions that are kept: a kilobyte each at most, but for jobs of many attempts."""


class Descriptions:
    """Describes jobs. ``prefix`` is the path that all endpoints live under."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._made: OrderedDict[str, tuple[Job, bytes]] = OrderedDict()

    def of(self, job: Job, outlook: Outlook | None) -> bytes:
        """Return a job as JSON, with what it has to expect where that is known."""
        made = self._made.get(job.id)
        # Jobs are immutable: the very same one still reads the same.
        if made is not None and made[0] is job:
            text = made[1]
        else:
            text = compact(_described(job, self._prefix))
            self._remember(job, text)
        # What changes with every look is put in before the closing brace.
        return text if outlook is None else text[:-1] + _foreseen(outlook)

    def _remember(self, job: Job, text: bytes) -> None:
        self._made[job.id] = (job, text)
        self._made.move_to_end(job.id)
        if len(self._made) > _REMEMBERED:
            self._made.popitem(last=False)


def _foreseen(outlook: Outlook) -> bytes:
    """Return the last members of a status, and its end."""
    # Tenths: no estimate is better, and a client sees that it goes down.
    seconds = f',"eta_seconds":{outlook.eta_seconds:.1f}}}'
    if outlook.position is None:
        return seconds.encode()
    return f',"queue_position":{outlook.position}{seconds}'.encode()


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _running(job: Job, _: str) -> dict[str, Any]:
    return {"progress": job.progress}


def _completed(job: Job, prefix: str) -> dict[str, Any]:
    return {
        "progress": job.progress,
        "download_url": f"{prefix}/download/{job.id}",
        # Hundredths: finer than anybody's patience, coarser than the clock's noise.
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
    """Yield what the status tells beyond the guide, as far as there is something to tell."""
    yield "model_name", job.request.model_name
    if job.request.scale is not None:
        yield "scale", job.request.scale
    if job.device is not None:
        yield "device", job.device
    if job.attempts:
        yield "attempts", [asdict(attempt) for attempt in job.attempts]


def _described(job: Job, prefix: str) -> dict[str, Any]:
    """Return a job as ``GET /status`` shows it; each state has its own fields."""
    return {
        "job_id": job.id,
        "status": job.state.value,
        **_DETAILS[job.state](job, prefix),
        **dict(_additions(job)),
    }
