"""Accepts uploads within the bounds of queue and disk, and turns them into jobs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from upscaled.callers import LOCAL, Caller
from upscaled.config.settings import LimitSettings
from upscaled.errors import QueueFullError, ShuttingDownError, UnknownJobError, WrongStateError
from upscaled.files import sha256_of
from upscaled.imaging import Prepared
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.results import result_name
from upscaled.jobs.store import KeyTakenError, SubmissionKey
from upscaled.jobs.workspace import Workspace
from upscaled.pictures import Size
from upscaled.service.admission import DISK_RESERVE, Admission, Admitted
from upscaled.service.followers import completed_from
from upscaled.service.idempotency import IdempotencyKeys, KeyClaim, fingerprint, key_in_use
from upscaled.service.job_options import fields_of
from upscaled.service.resumable import ResumableUpload, ResumableUploads
from upscaled.service.runner import JobRunner
from upscaled.service.sharing import CachedWork, SharedWork, WorkGroup
from upscaled.service.upload_room import Upload, UploadsInProgress
from upscaled.timing.timing import JobTiming, Quote

log = logging.getLogger(__name__)


class Submissions:
    """Accepts uploads and turns them into queued jobs, until it is closed.

    Args:
        limits: how many jobs may wait, of all clients and of one.
        admission: turns fields and a file into a job, or refuses them.
        workspace: holds the uploads.
        registry: records jobs.
        dispatcher: runs recorded jobs.
        timing: estimates when there is room again, and how long a job would take.
        keys: the idempotency keys of submissions.
        shared: knows which jobs do the same work.
        upload_seconds: how long an upload is kept without being continued.
    """

    def __init__(
        self,
        limits: LimitSettings,
        admission: Admission,
        workspace: Workspace,
        registry: JobRegistry,
        dispatcher: JobRunner,
        timing: JobTiming,
        keys: IdempotencyKeys,
        shared: SharedWork,
        *,
        upload_seconds: float,
    ) -> None:
        self.keys = keys
        self._shared = shared
        self._limits = limits
        self._admission = admission
        self._workspace = workspace
        self._registry = registry
        self._dispatcher = dispatcher
        self._timing = timing
        self._admitting: Counter[str] = Counter()
        self._uploads = UploadsInProgress(workspace, limits.max_queue_size, DISK_RESERVE)
        self.resumable = ResumableUploads(
            workspace, self._uploads, limits.max_queue_size, upload_seconds
        )
        """Uploads that come in with several requests."""
        self._open = True
        self.on_arrival: Callable[[], None] = lambda: None
        """Called when a picture begins to come in."""

    @property
    def open(self) -> bool:
        """Whether uploads are accepted."""
        return self._open

    @property
    def received_bytes(self) -> int:
        """How many bytes of pictures were received so far."""
        return self._uploads.received_bytes

    @property
    def uploading(self) -> int:
        """How many uploads are in progress."""
        return len(self._uploads)

    @property
    def is_idle(self) -> bool:
        """Whether no picture is being received or inspected."""
        return not len(self._uploads) and not self._admitting.total()

    def close(self) -> None:
        """Accept nothing more."""
        self._open = False

    def check(self, client: Caller = LOCAL) -> None:
        """Refuse early, before an upload of ``client`` is read.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: the queue is full, or the client's share of it.
        """
        self._check_open()
        entering = self._admitting + self._uploads.queueing
        waiting = self._registry.count(JobState.QUEUED) + entering.total()
        if waiting >= self._limits.max_queue_size:
            raise self._full(f"The queue is full ({waiting} jobs)")
        if self._limits.max_queue_per_client:
            own = self._registry.count_of(client.key) + entering[client.key]
            if own >= self._limits.max_queue_per_client:
                raise self._full(f"You have {own} jobs in the queue, as many as one client may")

    def _check_open(self) -> None:
        if not self._open:
            raise ShuttingDownError("The server is stopping; try again in a minute.",
                                    headers={"Retry-After": "60"})  # fmt: skip

    def _full_for(self, client: Caller) -> QueueFullError | None:
        """Return why only the result cache can answer the client; None: the queue has a place.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: the queue is full, and the cache empty.
        """
        try:
            self.check(client)
        except QueueFullError as error:
            if not self._shared.cache.bytes:
                raise
            return error
        return None

    def _full(self, why: str) -> QueueFullError:
        seconds = self._timing.retry_after()
        return QueueFullError(
            f"{why}; try again in {seconds} s.", headers={"Retry-After": str(seconds)}
        )

    async def begin_upload(self, client: Caller, length: int | None, *, queues: bool) -> Upload:
        """Reserve room for an upload before it is read; end it before it is submitted.

        Args:
            client: the caller.
            length: in bytes, if the caller declares it.
            queues: it will become a job and takes a place in the queue.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: the queue is full, or the client's share of it.
            NoSpaceError: the disk has no room for it.
        """
        if queues:
            # What the cache answers takes no place, but whether it does shows after the upload.
            queues = self._full_for(client) is None
        self.on_arrival()
        return await self._uploads.begin(client, length, queues=queues)

    async def begin_resumable(self, client: Caller, length: int, filename: str) -> ResumableUpload:
        """Reserve room for a picture of ``length`` bytes that arrives in several requests.

        Raises:
            ShuttingDownError: the server is stopping.
            QueueFullError: there are too many such uploads.
            NoSpaceError: the disk has no room for it.
        """
        self._check_open()
        self.on_arrival()
        return await self.resumable.begin(client, length, filename)

    def reserve_upload(self) -> Path:
        """Return a new path for an upload."""
        return self._workspace.new_upload()

    async def discard_upload(self, path: Path) -> None:
        """Delete an upload that was abandoned."""
        await self._workspace.discard(path)

    async def submit(
        self,
        fields: Mapping[str, str],
        upload: Path,
        filename: str,
        client: Caller = LOCAL,
        *,
        sha256: str = "",
        identity: str = "",
        claim: KeyClaim | None = None,
        links_base: str = "",
        size: Size | None = None,
    ) -> Job:
        """Turn an upload into a queued job; durable when this returns.

        The file is moved or, on refusal, deleted.

        Args:
            fields: those of the form.
            upload: the picture.
            filename: the picture's name.
            client: the caller.
            sha256: the picture's digest, if it is known.
            identity: the picture's identity for the comparison of requests; empty: its digest.
            claim: the submission's idempotency key. It is recorded with the job, so that a refused
                submission may be sent again.
            links_base: what links in webhook messages start with.
            size: the exact size of the result, which ``fields`` then don't name.

        Raises:
            KeyInUseError: another server has just accepted a submission with this key.
            UpscaledError: the refusal, see `Admission.admit` and `check`.
        """
        try:
            full = self._full_for(client)
            self._admitting[client.key] += 1
            self.on_arrival()
            try:
                sha256 = sha256 or await asyncio.to_thread(sha256_of, upload)
                admitted, place = await self._look_at(
                    fields, upload, filename, client, sha256, links_base, size, full
                )
                key = (
                    claim.record(fingerprint(identity or sha256, fields), admitted.job.id)
                    if claim
                    else None
                )
                job, prepared = await self._record(admitted, place, key)
                await self._begin(job, place, prepared)
            finally:
                self._admitting[client.key] -= 1
                self._admitting += Counter()  # removes the zeros
        except BaseException:
            await self.discard_upload(upload)
            raise
        return job

    async def again(self, earlier: Job, client: Caller, *, links_base: str) -> Job:
        """Return a new job with the picture and the fields of an ended one.

        Raises:
            WrongStateError: it has not ended, or its upload is gone.
            UpscaledError: the refusal, as of any submission.
        """
        if earlier.state not in TERMINAL:
            raise WrongStateError(
                f"The job is {earlier.state.value}; it can be tried again when it has ended."
            )
        upload = self._workspace.new_upload()
        try:
            await self._workspace.take_upload(earlier.id, upload)
        except BaseException as error:
            await self.discard_upload(upload)
            if isinstance(error, FileNotFoundError):
                raise WrongStateError(
                    "The upload of this job is no longer on the server; submit the picture again."
                ) from None
            raise
        return await self.submit(
            fields_of(earlier),
            upload,
            earlier.input_name,
            client,
            sha256=earlier.input_sha256,
            links_base=links_base,
            size=None if earlier.request.scale else earlier.request.output_size,
        )

    async def repeated(
        self, claim: KeyClaim, earlier: SubmissionKey, fields: Mapping[str, str], identity: str
    ) -> Job:
        """Return the job of the ``earlier`` submission that has the same idempotency key.

        Raises:
            KeyReusedError: its picture or its fields are others.
            KeyInUseError: its job is being deleted.
        """
        claim.check(fingerprint(identity, fields))
        try:
            return await self._registry.get(earlier.job_id)
        except UnknownJobError:
            raise key_in_use() from None

    async def quote(
        self, fields: Mapping[str, str], upload: Path | None, client: Caller = LOCAL
    ) -> tuple[Job, Quote]:
        """Return the job that a submission would create, and what it would take.

        Raises:
            UpscaledError: the refusal, see `Admission.plan`.
        """
        job = await self._admission.plan(fields, upload, client)
        return job, await self._timing.quote(job)

    async def _look_at(
        self,
        fields: Mapping[str, str],
        upload: Path,
        filename: str,
        client: Caller,
        sha256: str,
        links_base: str,
        size: Size | None,
        full: QueueFullError | None,
    ) -> tuple[Admitted, WorkGroup | CachedWork | None]:
        """Turn an upload into a job; find out who does its work.

        Returns:
            The job, and its group, or the result that the cache has. None: the digest of its work
            is unknown, so it shares work with no other job.

        Raises:
            QueueFullError: ``full``, unless the cache has the result.
        """
        async with self._shared.turn(client.owner, sha256):
            known = self._shared.probe_of(client.owner, sha256)
            if (
                known is None and full is not None
            ):  # a submission that will be refused is not decoded
                known = await self._admission.probe(upload, client)
            admitted = await self._admission.admit(
                fields, upload, filename, client,
                sha256=sha256, links_base=links_base, size=size, known=known,
            )  # fmt: skip
            try:
                if full is not None:
                    found = await self._shared.cached_work(admitted.job)
                    if found is None:
                        raise full
                    return admitted, found
                self._shared.remember(client.owner, sha256, admitted.probe)
                return admitted, await self._shared.place_of(admitted.job)
            except BaseException:
                await self._workspace.remove(admitted.job.id)
                raise

    async def _record(
        self, admitted: Admitted, place: WorkGroup | CachedWork | None, key: SubmissionKey | None
    ) -> tuple[Job, Prepared | None]:
        """Record an admitted job with its key; on an error nothing of it is left."""
        job, prepared = admitted.job, None
        try:
            if isinstance(place, CachedWork):
                await self._workspace.keep_result(job.id, result_name(job))
                fields = completed_from(place.result.receipt, "cached", place.key)
                started = fields["finished"]
                job = replace(job, state=JobState.COMPLETED, started=started, client="", **fields)
                await self._registry.add_completed(job, key)
            else:
                works = place is None or place.leader == job.id
                prepared = await self._admission.secure(admitted, works=works)
                await self._registry.add(job, key)
        except BaseException as error:
            self._shared.ended(job.id)
            await self._workspace.remove(job.id)
            if isinstance(error, KeyTakenError):
                raise key_in_use() from None
            raise
        return job, prepared

    async def _begin(
        self, job: Job, place: WorkGroup | CachedWork | None, prepared: Prepared | None
    ) -> None:
        """Let a recorded job be worked on, or follow the one that does its work."""
        self._shared.recorded(job.id)
        if isinstance(place, WorkGroup) and place.leader != job.id:
            self._dispatcher.follow(job, place)
        elif job.state is JobState.QUEUED:
            await self._dispatcher.enqueue(job, prepared)
        log.info(
            "job submitted",
            extra={
                "job": job.id,
                "file": job.input_name,
                "input": f"{job.input_format} {job.input_size}",
                "output": f"{job.request.format} {job.request.output_size}",
                "model": job.request.model_name,
                **_sharing_of(job, place),
            },
        )


def _sharing_of(job: Job, place: WorkGroup | CachedWork | None) -> dict[str, object]:
    """Return the log's fields about who does a job's work."""
    if isinstance(place, CachedWork):
        return {"cached": True}
    return {"follows": place.leader} if place and place.leader != job.id else {}
