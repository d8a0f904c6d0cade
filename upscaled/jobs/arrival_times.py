"""When active jobs arrived, by a clock that changes of the system's time do not affect."""

from __future__ import annotations

import time

from upscaled.jobs.job import Job


class Arrivals:
    """Arrival times of active jobs, in seconds since the epoch by the clock at the start.

    The order of the queue goes by these. Creation times come from the system's clock: after that
    is set back, a client's new jobs would count as older than its waiting ones.
    """

    def __init__(self) -> None:
        self._start = time.time()
        self._steady_start = time.monotonic()
        self._arrivals: dict[str, float] = {}

    def add(self, job: Job) -> None:
        """Note that a job has arrived now."""
        self._arrivals[job.id] = self._start + time.monotonic() - self._steady_start

    def recover(self, job: Job) -> None:
        """Record a job of an earlier run, which arrived before this run began."""
        self._arrivals[job.id] = min(job.created, self._start)

    def forget(self, job_id: str) -> None:
        """Drop a job that has ended."""
        self._arrivals.pop(job_id, None)

    def of(self, job: Job) -> float:
        """Return when an active job arrived."""
        return self._arrivals.get(job.id, job.created)
