"""`ArchiveRecord`: an archive whose pages are upscaled, and what became of each page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from upscaled.jobs.job import Callback
from upscaled.jobs.store import SubmissionKey
from upscaled.jobs.webhook_messages import Message
from upscaled.pictures import Size

_OWNER = "archive:"
"""What the owners of pages begin with. Names of tokens have no colon."""


class ArchiveState(StrEnum):
    """The state of an archive. The values are the API's."""

    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class PageState(StrEnum):
    """The state of a page. The values are the API's."""

    QUEUED = "queued"
    PROCESSING = "processing"
    UPSCALED = "upscaled"
    KEPT = "kept"
    """It is large enough already, so it stays as it is."""
    FAILED = "failed"
    """It can't be upscaled; its original stays in the archive."""


@dataclass(frozen=True)
class PageRecord:
    """One page."""

    number: int
    """From 1, in the order of the archive."""
    name: str
    state: PageState
    progress: int = 0
    """Percent."""
    input_size: Size | None = None
    output_size: Size | None = None
    device: str | None = None
    error: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class ArchiveRecord:
    """One archive. Times are seconds since the epoch."""

    id: str
    owner: str
    """Name of the caller's token."""
    client: str
    """Key of the client whose share its pages count towards; empty after its end."""
    filename: str
    """The caller's, used only for the download's name; never a path."""
    kind: str
    """See `upscaled.archives.kinds`."""
    fields: Mapping[str, str]
    """Those of a submission, for each page."""
    entries: int
    pages: int
    created: float
    only_below: str | None = None
    """Pages that are not below this size are kept as they are."""
    keeps_failed: bool = False
    """A page that can't be upscaled is kept; else the archive fails."""
    client_ref: str | None = None
    callback: Callback | None = None
    state: ArchiveState = ArchiveState.PROCESSING
    upscaled: int = 0
    kept: int = 0
    failed: int = 0
    finished: float | None = None
    error: str | None = None
    code: str | None = None
    size_bytes: int | None = None
    sha256: str = ""
    """Of the result, in hexadecimal."""
    delivered: float | None = None
    """When a proxy had received the whole result."""
    result_gone: str | None = None
    """Why the result is deleted: ``downloaded``, ``expired`` or ``lost``."""

    @property
    def done(self) -> int:
        """How many pages are in the new archive."""
        return self.upscaled + self.kept + self.failed

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state is not ArchiveState.PROCESSING

    @property
    def has_result(self) -> bool:
        """Whether it can be downloaded."""
        return self.state is ArchiveState.COMPLETED and self.result_gone is None

    @property
    def model_name(self) -> str | None:
        """The model that its pages want; None: the default."""
        return self.fields.get("model_name")


def owner_of_pages(archive_id: str) -> str:
    """Return the owner of the jobs of an archive's pages.

    No caller has this name. So pages are in no caller's list of jobs, and only the archive can
    cancel, download or delete them.
    """
    return _OWNER + archive_id


def archive_of(owner: str) -> str | None:
    """Return the archive that ``owner`` stands for; None: the owner is a caller."""
    return owner.removeprefix(_OWNER) if owner.startswith(_OWNER) else None


class ArchiveStore(Protocol):
    """Durable records of archives. A change has reached the disk when the call returns."""

    async def put(
        self,
        record: ArchiveRecord,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        """Insert or replace a record; a key and messages are recorded in the same transaction.

        Raises:
            KeyTakenError: the owner has used the key before.
            NoSpaceError: the disk is full.
        """
        ...

    async def get(self, archive_id: str) -> ArchiveRecord | None:
        """Return the record of this id, None if there is none."""
        ...

    async def all_of(
        self, *, state: ArchiveState | None = None, finished_before: float | None = None
    ) -> list[ArchiveRecord]:
        """Return the records in a state, or that ended before a moment, oldest first."""
        ...

    async def page(
        self, owner: str, after: tuple[float, str] | None, limit: int
    ) -> list[ArchiveRecord]:
        """Return an owner's records, newest first, from after ``(created, id)`` on."""
        ...

    async def messages_of(self, archive_id: str) -> list[Message]:
        """Return all messages about an archive, in the order in which they were added."""
        ...

    async def delete(self, archive_id: str) -> None:
        """Delete a record with its key and its messages; nothing if there is none."""
        ...
