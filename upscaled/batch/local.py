"""Results from a service in this process: the same pipeline, without network."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from upscaled.batch.outputs import OutputError, UnreadableError, as_sentence, place
from upscaled.batch.upscaler import Made, OnPercent, Task
from upscaled.callers import LOCAL
from upscaled.config.settings import Config
from upscaled.engines.engine import is_small
from upscaled.errors import (
    OUT_OF_SPACE,
    EngineError,
    NoMemoryError,
    NoSpaceError,
    UnknownJobError,
    mib_above,
)
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.store import JobFilter
from upscaled.pictures import Size
from upscaled.service.job_options import parse_fields
from upscaled.service.processing import check_default_model
from upscaled.service.service import Service

_PLACES = 1000
"""Size of the queue: more than `parallel` on any machine plus what an earlier run left."""
_LEFT = 1000
"""The most jobs of an earlier run that are looked up; it had a few more than slots."""
_LOOK_SECONDS = 5.0
_LOOKS = 2
"""How often in a row all jobs of the run are seen to wait for the disk, until they are given up."""
_USELESS = frozenset({JobState.FAILED, JobState.CANCELLED})


class LocalUpscaler:
    """Upscales with a service of its own.

    An interrupted job stays in ``folder`` with its finished part, and continues when a later run
    has a task with the same key. So does a result that could not be put into its place. All other
    jobs there are deleted.

    Args:
        config: the settings; of ``storage``, only the caches of models and networks are used.
        folder: for the service's data, best on the disk of the results.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        storage = dataclasses.replace(
            config.storage, data_dir=str(folder.absolute()), result_cache_mb=0
        )
        # Results that share their work may be one file with several names. They belong to the user,
        # who may change one of them.
        # And there are no viewers, so only results are kept.
        features = dataclasses.replace(config.features, join_identical=False, web=False)
        # When the service stops, jobs have ended or continue in a later run.
        server = dataclasses.replace(config.server, drain_seconds=0)
        limits = dataclasses.replace(
            config.limits,
            max_queue_size=max(config.limits.max_queue_size, _PLACES),
            max_queue_per_client=0,
        )
        self._config = dataclasses.replace(
            config,
            storage=storage,
            server=server,
            limits=limits,
            features=features,
            kept=config.networks_dir,
        )
        self._service = Service(
            self._config,
            models_cache=config.models_cache,
            methods_file=config.methods_file,
            needs_default_model=False,
        )
        self._left: dict[str, Job] = {}
        self._unplaced: dict[str, Job] = {}
        self._placed: dict[Path, str] = {}
        self._awaited: set[str] = set()
        self._folder = folder

    async def __aenter__(self) -> Self:
        await self._service.start()
        try:
            for job in await self._service.jobs.page(JobFilter(LOCAL.owner), None, _LEFT):
                useful = job.state not in _USELESS and job.result_gone is None
                if useful and job.client_ref and job.client_ref not in self._left:
                    self._left[job.client_ref] = job
                else:
                    await self._forget(job.id)
        except BaseException:
            await self._service.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._drop_left()
        finally:
            await self._service.stop()

    async def _drop_left(self) -> None:
        """Delete what an earlier run left and no task of this one continued."""
        for job in self._left.values():
            await self._forget(job.id)
        self._left.clear()

    async def _forget(self, job_id: str) -> None:
        with contextlib.suppress(UnknownJobError):
            job = await self._service.jobs.get(job_id)
            if job.state not in TERMINAL:
                await self._service.jobs.cancel(job_id)
            await self._service.jobs.delete(job_id)

    @property
    def parallel(self) -> int:
        """How many tasks it needs at a time: those in slots, and those decoded and encoded."""
        return 2 * self._service.most_at_once + 2

    async def completed(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Return ``fields`` with the settings' default model and scale, where they name none.

        Raises:
            BadRequestError: a field is wrong.
            ConfigError: they name no model, and the default one is not installed.
        """
        upscaler = self._config.upscaler
        self._check_model(fields)
        filled = {"model_name": upscaler.default_model, **fields}
        if not {"width", "height"} & filled.keys():
            filled.setdefault("scale", str(upscaler.default_scale))
        parse_fields(filled)
        self._service.models.get(filled["model_name"])
        return filled

    def _check_model(self, fields: Mapping[str, str]) -> None:
        if "model_name" not in fields:
            check_default_model(self._config, self._service.models)

    async def upscale(self, task: Task, on_percent: OnPercent) -> Made:
        """Make one result; see `Upscaler`."""
        self._check_model(task.fields)
        job = await self._continued(task, on_percent)
        if job is None:
            job = await self._ended(await self._submit(task), on_percent)
        if job.state is not JobState.COMPLETED:
            await self._forget(job.id)
            raise EngineError(job.error or f"The job was {job.state}.")
        result = await self._service.jobs.result(job.id)
        try:
            with as_sentence(task.target, OutputError):
                await asyncio.to_thread(place, result.path, task.target)
        except OutputError:
            if task.key:  # it is tried again, in this run or in the next
                self._unplaced[task.key] = job
            else:
                await self._forget(job.id)
            raise
        self._placed[task.target] = job.id
        return Made(job.input_size, job.request.output_size, str(job.device))

    async def _continued(self, task: Task, on_percent: OnPercent) -> Job | None:
        """Return the completed job of this task that an earlier try left, if there is one."""
        left = self._unplaced.pop(task.key, None) or self._left.pop(task.key, None)
        if left is None:
            return None
        try:
            job = await self._ended(left, on_percent)
        except UnknownJobError:  # it waited so long that it was deleted
            return None
        if job.state is JobState.COMPLETED and job.result_gone is None:
            return job
        # A service gives a job up that it was killed in several times; whoever kills runs means no
        # picture by it.
        await self._forget(job.id)
        return None

    async def recorded(self, task: Task) -> None:
        """Delete the job of a result that is recorded; until then another run would take it up."""
        job_id = self._placed.pop(task.target, None)
        if job_id is not None:
            await self._forget(job_id)

    async def _submit(self, task: Task) -> Job:
        submissions = self._service.submissions
        upload = submissions.reserve_upload()
        with as_sentence(task.source, UnreadableError):
            try:
                await asyncio.to_thread(shutil.copyfile, task.source, upload)
            except OSError as error:
                await submissions.discard_upload(upload)
                if error.errno not in OUT_OF_SPACE:
                    raise
                need = (await asyncio.to_thread(task.source.stat)).st_size
                raise self._without_room(need) from error
        fields = {**task.fields, "client_ref": task.key} if task.key else task.fields
        try:
            return await submissions.submit(fields, upload, task.source.name)
        except NoMemoryError:
            raise
        except NoSpaceError as error:
            if error.need is None:  # another sentence, which is about a write
                raise
            raise self._without_room(error.need, error.free) from error

    def _without_room(self, need: int, free: int | None = None) -> NoSpaceError:
        """Return the error about a job that needs more bytes than are free; None: hardly any."""
        is_full = ", which is full" if free is None else f" and {free >> 20} MiB are free"
        return NoSpaceError(
            f"The job needs about {mib_above(need)} MiB on its disk{is_full}; make room on the "
            f"disk of {self._folder}, and run the same command again.",
            need=need,
            free=free,
        )

    async def _ended(self, job: Job, on_percent: OnPercent) -> Job:
        """Wait until the job has ended and return it; report its percentage meanwhile."""
        shown, looks = -1, 0
        self._awaited.add(job.id)
        try:
            async with self._service.jobs.subscribe(job.id) as updates:
                while True:
                    try:
                        async with asyncio.timeout(_LOOK_SECONDS):
                            update = await anext(updates)
                    except TimeoutError:
                        looks = looks + 1 if self._is_stuck(job) else 0
                        if looks == _LOOKS:
                            raise await self._given_up(job) from None
                        continue
                    except StopAsyncIteration:
                        break
                    if update.job.progress != shown:
                        shown = update.job.progress
                        on_percent(shown)
        finally:
            self._awaited.discard(job.id)
        return await self._service.jobs.get(job.id)

    def _is_stuck(self, job: Job) -> bool:
        """Tell whether a job waits for room on the disk that no other job of the run will make."""
        waiting = self._service.waiting_for_disk.keys()
        return job.id in waiting and self._awaited <= waiting

    async def _given_up(self, job: Job) -> NoSpaceError:
        """Drop a job that is stuck; return the error that says so."""
        need = self._service.waiting_for_disk.get(job.id, 0)
        await self._forget(job.id)
        return self._without_room(need)

    async def estimate(self, size: Size, fields: Mapping[str, str]) -> tuple[Size, float]:
        """Return the size of a result, and the seconds it adds to a run; see `Upscaler`."""
        sides = {"input_width": str(size.width), "input_height": str(size.height)}
        job, quote = await self._service.submissions.quote({**fields, **sides}, None)
        # Small pictures are upscaled side by side, others one after the other.
        together = self._service.most_at_once if is_small(size) else 1
        return job.request.output_size, quote.estimate.total / together
