"""`JobStore`: the interface of a store of job records."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from upscaled.jobs.job import Job, JobState
from upscaled.jobs.webhook_messages import Message, PendingJob


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are wanted; None matches any value. Times are seconds since the epoch."""

    owner: str
    state: JobState | None = None
    model: str | None = None
    client_ref: str | None = None
    created_after: float | None = None
    created_before: float | None = None

    def matches(self, job: Job) -> bool:
        """Tell whether a job is wanted."""
        return (
            job.owner == self.owner
            and self.state in {None, job.state}
            and self.model in {None, job.request.model_name}
            and self.client_ref in {None, job.client_ref}
            and (self.created_after is None or job.created > self.created_after)
            and (self.created_before is None or job.created < self.created_before)
        )


KEYS_PER_OWNER = 10_000
"""Idempotency keys that are kept for one owner; a new one replaces the oldest."""


@dataclass(frozen=True)
class SubmissionKey:
    """An idempotency key, recorded with the job of the submission that sent it."""

    owner: str
    key: str
    fingerprint: str
    """Digest of the submission's picture and fields."""
    job_id: str
    created: float
    """Seconds since the epoch."""


class KeyTakenError(Exception):
    """The owner has used this idempotency key before."""


class JobStore(Protocol):
    """Durable job records. A change has reached the disk when the call returns."""

    async def open(self) -> None:
        """Prepare the store; called once, before anything else."""
        ...

    async def close(self) -> None:
        """Finish pending work and close the files."""
        ...

    async def put(
        self,
        job: Job,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        """Insert the job, or replace the record with the same id.

        Args:
            job: the job.
            key: recorded in the same transaction. It replaces the owner's oldest key where there
                are `KEYS_PER_OWNER`.
            messages: added to the outbox in the same transaction. Those whose ids are there already
                are left out.

        Raises:
            KeyTakenError: the owner has this key already. Nothing is written.
        """
        ...

    async def key(self, owner: str, key: str) -> SubmissionKey | None:
        """Return what was recorded with an owner's idempotency key; None if it is not known."""
        ...

    async def keys_of(self, job_id: str) -> list[SubmissionKey]:
        """Return the idempotency keys that stand for a job, oldest first."""
        ...

    async def forget_keys(self, before: float) -> None:
        """Delete the idempotency keys that are older than ``before`` (seconds since the epoch)."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return the job; None if there is no record of it."""
        ...

    async def in_states(self, states: Collection[JobState]) -> list[Job]:
        """Return all jobs in these states, oldest first."""
        ...

    async def finished_before(self, moment: float, *, with_result: bool) -> list[Job]:
        """Return jobs that ended before ``moment`` (seconds since the epoch), oldest first.

        ``with_result``: only jobs whose result still exists.
        """
        ...

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return the jobs that ``wanted`` matches, newest first, ``limit`` at most.

        ``after``: only jobs that come after this creation time and id in that order.
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Delete the job's record, if there is one, its messages and the keys that stand for it."""
        ...

    async def messages_of(self, job_id: str) -> list[Message]:
        """Return all messages of a job, in the order in which they were added."""
        ...

    async def next_message(self, job_id: str) -> Message | None:
        """Return the job's first pending message; None if it has none."""
        ...

    async def pending_jobs(self) -> list[PendingJob]:
        """Return the jobs that have pending messages, the oldest message first."""
        ...

    async def count_pending(self, owner: str) -> int:
        """Return how many messages of an owner's jobs are pending."""
        ...

    async def settle(self, message: Message) -> None:
        """Record what became of a message; nothing happens if it was deleted.

        `MessageState.GONE` ends the job's other pending messages too, and later ones.
        """
        ...
