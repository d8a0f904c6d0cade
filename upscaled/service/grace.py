"""Grace periods: how long a result stays after a proxy has received all of it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator


class GracePeriods:
    """The results that a proxy has received, and when each is to be deleted.

    A proxy acknowledges bytes that its caller has not read yet, so a download can still break off
    after the server has sent everything. Until the grace period ends, the caller can continue the
    download or repeat it. Every download starts the period anew.

    Args:
        seconds: length of a grace period.
        clock: seconds, never going back: setting the system's time shortens no grace period.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._downloads: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._ends)

    def begin(self, job_id: str, passed: float = 0.0) -> None:
        """Start the job's grace period; ``passed`` seconds of it are over already.

        A negative number, caused by a clock that was set back, counts as 0.
        """
        self._ends[job_id] = self._clock() + self.seconds - max(0.0, passed)

    def forget(self, job_id: str) -> None:
        """Forget the job; its result is deleted."""
        self._ends.pop(job_id, None)

    @contextlib.contextmanager
    def downloading(self, job_id: str) -> Iterator[None]:
        """Let the job's result stay during the block, which sends it."""
        self._downloads[job_id] += 1
        try:
            yield
        finally:
            self._downloads[job_id] -= 1
            if not self._downloads[job_id]:
                del self._downloads[job_id]
            if job_id in self._ends:
                self.begin(job_id)

    def over(self) -> list[str]:
        """Return the jobs whose grace period is over, the first one first."""
        now = self._clock()
        return [job_id for job_id in self.running() if self._ends[job_id] <= now]

    def running(self) -> list[str]:
        """Return the jobs in a grace period whose results are not being downloaded, by its end."""
        idle = (job_id for job_id in self._ends if not self._downloads[job_id])
        return sorted(idle, key=self._ends.__getitem__)
