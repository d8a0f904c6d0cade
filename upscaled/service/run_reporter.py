"""`RunReporter`: shows in the registry what a run of the pipeline reports."""

from __future__ import annotations

import asyncio
import functools
import logging
import time

from upscaled.engines.pool import Place
from upscaled.jobs.job import Attempt, Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.updates import Stage
from upscaled.pipeline.footprint import TimeLimit
from upscaled.pipeline.result import RunCallbacks
from upscaled.pipeline.run import UPSCALED_PERCENT
from upscaled.service.prefetch import Turn
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)


class RunReporter:
    """Shows slots, attempts, progress and stages of runs.

    Args:
        registry: the jobs.
        timing: told when a job gets a slot.
        time_limit: how long a job may take from its first slot on.
    """

    def __init__(self, registry: JobRegistry, timing: JobTiming, time_limit: TimeLimit) -> None:
        self._registry = registry
        self._timing = timing
        self._time_limit = time_limit

    def of(self, job: Job, deadline: asyncio.Timeout, turn: Turn) -> RunCallbacks:
        """Return the callbacks of a run.

        Args:
            job: the job.
            deadline: set when the job gets its first slot.
            turn: given back when it gets a slot.
        """

        def attempted(attempt: Attempt) -> None:
            if (current := self._registry.peek(job.id)) is not None:
                self._registry.amend(job.id, attempts=(*current.attempts, attempt))

        def progress(percent: int) -> None:
            self._registry.report_progress(job.id, percent)
            if percent >= UPSCALED_PERCENT:
                self._registry.report_stage(job.id, Stage.FINISHING)

        return RunCallbacks(
            started=functools.partial(self._started, job, deadline, turn),
            progress=progress,
            attempted=attempted,
        )

    def _started(self, job: Job, deadline: asyncio.Timeout, turn: Turn, place: Place) -> None:
        """Show a job that got a slot as processing; its time limit starts with the first slot."""
        turn.leave()
        self._timing.begun(job.id, place)
        self._registry.report_stage(job.id, Stage.UPSCALING)
        current = self._registry.peek(job.id)
        if current is not None and current.state is JobState.PROCESSING:
            self._registry.amend(job.id, device=place.device.id)
            return
        deadline.reschedule(asyncio.get_running_loop().time() + self._time_limit.seconds(job))
        now, runs = time.time(), (current or job).runs + 1
        self._registry.begin(job.id, started=now, device=place.device.id, runs=runs)
        log.info(
            "job started",
            extra={
                "job": job.id,
                "device": place.device.id,
                "engine": place.engine,
                "run": runs,
                "waited": round(now - job.created, 2),
            },
        )
