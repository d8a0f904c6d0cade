"""A forecaster without the service around it."""

from __future__ import annotations

from upscaled.jobs.order import FifoOrder, Waiting
from upscaled.jobs.queue import JobQueue
from upscaled.timing.estimator import Estimate
from upscaled.timing.forecast import Forecaster, Outlook


class ForecastHarness:
    """A queue and its forecaster, with a clock that the test sets (``now``)."""

    def __init__(self, slots: int = 1, shares: int = 1) -> None:
        self.now = 1000.0
        self.progress: dict[str, int] = {}
        self.queue = JobQueue(FifoOrder())
        self.forecaster = Forecaster(
            self.queue,
            slots,
            lambda job: self.progress.get(job, 1),  # 1 %: a job that just got a slot
            lambda: self.now,
            shares=shares,
        )

    def add(
        self,
        name: str,
        upscale: float,
        prepare: float = 0.0,
        finish: float = 1.0,
        *,
        small: bool = False,
    ) -> None:
        estimate = Estimate(prepare, upscale, finish, load=0.0, measured=True)
        self.forecaster.expect(name, estimate, small=small)
        self.queue.put(Waiting(name, 0.0))

    async def begin(self, name: str) -> None:
        assert (await self.queue.take()).id == name
        self.forecaster.taken(name)
        self.forecaster.begun(name)

    def told(self, name: str) -> Outlook:
        outlook = self.forecaster.outlook(name)
        assert outlook is not None
        return outlook
