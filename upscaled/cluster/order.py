"""The order of a cluster's waiting jobs, as an API server forecasts it: by their start tags."""

from __future__ import annotations

from upscaled.jobs.order import Waiting


class TagOrder:
    """Waiting jobs by the tags that they were given when they were submitted, see `work_queue`."""

    def __init__(self) -> None:
        self.tags: dict[str, float] = {}
        """Tags of the jobs that wait; to be set before a job is put."""
        self._jobs: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Waiting) -> None:
        self._jobs[job.id] = job

    def remove(self, job_id: str) -> bool:
        self.tags.pop(job_id, None)
        return self._jobs.pop(job_id, None) is not None

    def pop(self) -> Waiting:
        """Remove and return the next job.

        Raises:
            IndexError: no job is waiting.
        """
        job = self.head()
        if job is None:
            raise IndexError("no job is waiting")
        self.remove(job.id)
        return job

    def head(self) -> Waiting | None:
        return min(self._jobs.values(), key=self._rank, default=None)

    def ahead(self) -> list[Waiting]:
        return sorted(self._jobs.values(), key=self._rank)

    def _rank(self, job: Waiting) -> tuple[float, float, str]:
        return self.tags.get(job.id, 0.0), job.created, job.id
