"""Shared work: identical submissions of one owner are done once, and answered from the cache."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upscaled.engines.selection import EngineChoice
from upscaled.errors import UpscaledError
from upscaled.imaging import Probe
from upscaled.jobs.job import Job
from upscaled.jobs.result_cache import CachedResult, ResultCache, share
from upscaled.jobs.results import result_name
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline.identity import work_digest
from upscaled.pipeline.pipeline import Pipeline
from upscaled.pipeline.result import RunResult

log = logging.getLogger(__name__)

_PROBES = 4096
"""Pictures whose size and format are kept; the least recently used one is removed first."""


@dataclass(eq=False)
class WorkGroup:
    """The jobs that need the same work: one does it, the others follow."""

    key: str
    """The work's digest."""
    leader: str
    """Id of the job that does the work."""
    followers: dict[str, None] = field(default_factory=dict)
    """Ids of the others, in the order of their arrival."""
    recorded: asyncio.Event = field(default_factory=asyncio.Event)
    """The leader is in the registry."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """The leader has ended, and nothing of its work runs any more."""
    receipt: Mapping[str, Any] | None = None
    """Of the leader's work, once it is done."""
    work: str = ""
    """The digest of the work that was done; another one if the model was replaced meanwhile."""
    served: frozenset[str] = frozenset()
    """Followers that have the result in their folders."""
    verdict: str | None = None
    """Why no job of the group is tried again, as a sentence."""
    successor: WorkGroup | None = None
    """Followers without a result, of whom the first does the work now."""


@dataclass(frozen=True)
class CachedWork:
    """A result that is in a job's folder already."""

    key: str
    """The work's digest."""
    result: CachedResult


class SharedWork:
    """Knows which jobs do the same work, and hands the result of one to all.

    Args:
        cache: keeps results for later jobs.
        workspace: holds the files of jobs.
        pipeline: knows the network of a job.
        choice: the engine and its devices.
        joins: whether a job may follow an identical one; else each does its own work.
    """

    def __init__(
        self,
        cache: ResultCache,
        workspace: Workspace,
        pipeline: Pipeline,
        choice: EngineChoice,
        *,
        joins: bool,
    ) -> None:
        self.cache = cache
        self.joined = 0
        """How many jobs joined an identical one."""
        self._workspace = workspace
        self._pipeline = pipeline
        self._choice = choice
        self._joins = joins
        self._groups: dict[str, WorkGroup] = {}
        self._of_job: dict[str, WorkGroup] = {}
        self._probes: OrderedDict[tuple[str, str], Probe] = OrderedDict()
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._waiting: Counter[tuple[str, str]] = Counter()

    @contextlib.asynccontextmanager
    async def turn(self, owner: str, sha256: str) -> AsyncIterator[None]:
        """Handle one upload of a picture at a time: the first one's job may serve the others."""
        which = (owner, sha256)
        lock = self._turns.setdefault(which, asyncio.Lock())
        self._waiting[which] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[which] -= 1
            if not self._waiting[which]:
                del self._waiting[which], self._turns[which]

    def probe_of(self, owner: str, sha256: str) -> Probe | None:
        """Return what is known of a picture that the owner has sent before."""
        probe = self._probes.get((owner, sha256))
        if probe is not None:
            self._probes.move_to_end((owner, sha256))
        return probe

    def remember(self, owner: str, sha256: str, probe: Probe) -> None:
        """Remember the size and format of a picture."""
        self._probes[owner, sha256] = probe
        self._probes.move_to_end((owner, sha256))
        if len(self._probes) > _PROBES:
            self._probes.popitem(last=False)

    async def key_of(self, job: Job) -> str | None:
        """Return the digest of a job's work; None if it is unknown.

        That is so for jobs of earlier versions, whose upload has no digest, and without the
        model's files.
        """
        if not job.input_sha256:
            return None
        try:
            model = await self._pipeline.identify(job)
            program = self._choice.program
            digest = None if program is None else await self._pipeline.digest(program.path)
        except UpscaledError:
            return None
        return work_digest(job, model, self._choice, digest, self._pipeline.method_of(job, model))

    async def place_of(self, job: Job) -> WorkGroup | CachedWork | None:
        """Return who does the work of a new job: the cache, or a group that it joins.

        None if it is not known what decides about its work.
        """
        key = await self.key_of(job)
        if key is None:
            return None
        while True:
            if (found := await self.cached(key, job)) is not None:
                return CachedWork(key, found)
            # A result may have been stored meanwhile. An entry that can't be used is deleted.
            if key not in self.cache:
                return self.join(key, job.id)

    async def cached_work(self, job: Job) -> CachedWork | None:
        """Put the cached result of a new job into its folder; None if there is none."""
        key = await self.key_of(job)
        found = None if key is None else await self.cached(key, job)
        return None if key is None or found is None else CachedWork(key, found)

    async def cached(self, key: str, job: Job) -> CachedResult | None:
        """Put the cached result of ``key`` into the job's folder; None if there is none.

        It is on the disk when this returns.
        """
        target = self._workspace.folder(job.id) / result_name(job)
        found = await self.cache.take(key, target)
        if found is None:
            return None
        if not await self._flushed(job.id):
            await self.cache.drop(key)
            return None
        return found

    async def _flushed(self, job_id: str) -> bool:
        try:
            await self._workspace.flush_folder(job_id)
        except OSError as error:
            log.warning("job's result can't be stored",
                        extra={"job": job_id, "reason": str(error)})  # fmt: skip
            return False
        return True

    def join(self, key: str, job_id: str) -> WorkGroup:
        """Let a job do this work, or follow the job that does it already."""
        group = self._groups.get(key) if self._joins else None
        if group is None:
            group = WorkGroup(key, job_id)
            self._groups[key] = group
        else:
            group.followers[job_id] = None
            self.joined += 1
        self._of_job[job_id] = group
        return group

    def leader_of(self, job_id: str) -> str:
        """Return the job that does the work of this one; itself, if it does."""
        group = self._of_job.get(job_id)
        return job_id if group is None else group.leader

    def with_followers(self, positions: Mapping[str, int]) -> Mapping[str, int]:
        """Return the positions of jobs with those of their followers."""
        spread = dict(positions)
        for group in self._groups.values():
            if group.followers and group.leader in positions:
                spread.update(dict.fromkeys(group.followers, positions[group.leader]))
        return spread

    async def finished(self, job: Job, result: RunResult, receipt: Mapping[str, Any]) -> str:
        """Put a finished result into the cache and into the folders of the job's followers.

        Called before the job's end is recorded, since its caller may then delete the file.

        Returns:
            The digest of the work that was done.
        """
        how = result.execution
        key = work_digest(job, result.model, self._choice, how.program_sha256, how.method)
        if job.input_sha256:
            await self.cache.store(key, result.path, receipt)
        group = self._of_job.get(job.id)
        if group is not None and group.leader == job.id:
            self._close(group)
            group.served = frozenset(
                await asyncio.to_thread(self._hand_over, result.path, tuple(group.followers))
            )
            group.receipt, group.work = receipt, key
        return key

    def _hand_over(self, path: Path, followers: Iterable[str]) -> list[str]:
        served = []
        for job_id in followers:
            try:
                share(path, self._workspace.folder(job_id) / path.name)
            except OSError as error:  # it was cancelled, or the disk is full
                log.info("result not handed on", extra={"job": job_id, "reason": str(error)})
            else:
                served.append(job_id)
        return served

    def recorded(self, job_id: str) -> None:
        """Note that a job is in the registry."""
        group = self._of_job.get(job_id)
        if group is not None and group.leader == job_id:
            group.recorded.set()

    def heir_of(self, job_id: str) -> str | None:
        """Return the follower that will do the work if this job is cancelled."""
        group = self._of_job.get(job_id)
        if group is None or group.leader != job_id or group.receipt is not None:
            return None
        return next(iter(group.followers), None)

    def give_up(self, job_id: str, sentence: str) -> None:
        """Record that the picture made a job fail, so that its followers fail too.

        Args:
            job_id: the job.
            sentence: the reason.
        """
        group = self._of_job.get(job_id)
        if group is not None and group.leader == job_id:
            group.verdict = sentence

    def ended(self, job_id: str) -> None:
        """Record that a job has ended, for any reason. Its followers continue without it."""
        group = self._of_job.pop(job_id, None)
        if group is None:
            return
        group.followers.pop(job_id, None)
        if group.leader != job_id:
            return
        self._close(group)
        left = [follower for follower in group.followers if follower not in group.served]
        if left and group.verdict is None:
            group.successor = WorkGroup(group.key, left[0], dict.fromkeys(left[1:]))
            group.successor.recorded.set()
            self._groups.setdefault(group.key, group.successor)
            self._of_job.update(dict.fromkeys(left, group.successor))
        group.recorded.set()
        group.ended.set()

    def next_group(self, group: WorkGroup, job_id: str) -> WorkGroup:
        """Return the group of a follower whose leader has ended and left it without a result."""
        following = self._of_job.get(job_id)
        if following is not None and following is not group:
            return following
        group = self.join(group.key, job_id)
        if group.leader == job_id:
            group.recorded.set()
        return group

    def _close(self, group: WorkGroup) -> None:
        """Let no other job join a group."""
        if self._groups.get(group.key) is group:
            del self._groups[group.key]
