"""Messages to the receivers that jobs' callers named; they wait in the store's outbox."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MessageState(StrEnum):
    """What became of a message. The values are the API's."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
    """It failed too often."""
    GONE = "gone"
    """The receiver wants no more of this job."""


@dataclass(frozen=True)
class Message:
    """One message. Times are seconds since the epoch."""

    id: str
    """The same for the same event of the same job, so that it is recorded once."""
    job_id: str
    owner: str
    """The job's owner."""
    event: str
    url: str
    """Where it goes to."""
    body: bytes
    created: float
    due: float
    """When it is to be sent; for a pending one."""
    state: MessageState = MessageState.PENDING
    attempts: int = 0
    finished: float | None = None
    """When it stopped to be pending."""
    status: int | None = None
    """The receiver's latest HTTP status; None: it did not answer."""
    error: str | None = None
    """Why the latest attempt failed, as a sentence."""


@dataclass(frozen=True)
class PendingJob:
    """A job that has pending messages."""

    job_id: str
    owner: str
    url: str
    """Where its next message goes to."""
    due: float
    """When that is to be sent."""
