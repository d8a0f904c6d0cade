"""Jobs as callers see them: what status, events and webhooks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from upscaled.jobs.job import Job, JobState
from upscaled.pictures import Size


@dataclass(frozen=True)
class Links:
    """The addresses of one job."""

    base: str
    """What the addresses of all endpoints start with, such as ``/api/v1``."""
    job_id: str

    @property
    def status(self) -> str:
        """Where its status is."""
        return f"{self.base}/status/{self.job_id}"

    @property
    def download(self) -> str:
        """Where its result is."""
        return f"{self.base}/download/{self.job_id}"

    @property
    def cancel(self) -> str:
        """Where it is cancelled."""
        return f"{self.base}/cancel/{self.job_id}"

    @property
    def events(self) -> str:
        """Where its events are."""
        return f"{self.base}/events/{self.job_id}"


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _running(job: Job, _: str) -> dict[str, Any]:
    return {"progress": job.progress}


def _completed(job: Job, base: str) -> dict[str, Any]:
    origin = {name: True for name in ("cached", "shared") if name in job.receipt}
    return {
        "progress": job.progress,
        "download_url": Links(base, job.id).download,
        # Hundredths: coarser than the clock's noise.
        "duration_seconds": round(job.duration or 0.0, 2),
        "input_size": _size(job.input_size),
        "output_size": _size(job.request.output_size),
        "file_size_bytes": job.file_size_bytes,
        **origin,
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
