"""Records of model imports, which survive a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from upscaled import files, serial
from upscaled.errors import UpscaledError
from upscaled.models.conversion.imported import Imported

log = logging.getLogger(__name__)

_INTERRUPTED = "The server was stopped during the import; send the file again."


class ImportState(StrEnum):
    """How far an import is."""

    QUEUED = "queued"
    IMPORTING = "importing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class ImportStatus:
    """An import."""

    id: str
    name: str
    """That the model gets."""
    state: ImportState = ImportState.QUEUED
    step: str | None = None
    """What is being done, while it works."""
    made: Imported | None = None
    offered_as: str | None = None
    """Name of the model that it is a network of; None before the end."""
    error: UpscaledError | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in {ImportState.COMPLETED, ImportState.FAILED}


@dataclass(frozen=True)
class _Record:
    """The same in the file; fields may be added, not changed."""

    id: str
    name: str
    state: ImportState
    made: Imported | None = None
    offered_as: str | None = None
    error: str | None = None
    code: str = UpscaledError.code


@dataclass(frozen=True)
class _Document:
    imports: tuple[_Record, ...] = ()


class ImportRecords:
    """A file with the newest imports.

    Args:
        path: the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()

    async def load(self) -> list[ImportStatus]:
        """Return what was kept, the oldest first; an import that had not ended has failed."""
        try:
            content = await asyncio.to_thread(self._path.read_bytes)
            found = serial.decode(content, _Document)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.warning("earlier imports are forgotten", extra={"reason": str(error)})
            return []
        return [_status_of(record) for record in found.imports]

    async def save(self, imports: Collection[ImportStatus]) -> None:
        """Keep these, in place of what was kept.

        Raises:
            OSError: the file can't be written.
        """
        async with self._writing:  # in the order of the calls
            content = serial.encode(_Document(tuple(map(_record_of, imports))))
            await asyncio.to_thread(files.replace, self._path, content, durable=True)


def _record_of(status: ImportStatus) -> _Record:
    error = status.error
    return _Record(
        status.id,
        status.name,
        status.state,
        status.made,
        status.offered_as,
        None if error is None else error.message,
        UpscaledError.code if error is None else error.code,
    )


def _status_of(record: _Record) -> ImportStatus:
    status = ImportStatus(
        record.id, record.name, record.state, made=record.made, offered_as=record.offered_as
    )
    if not status.ended:
        return dataclasses.replace(
            status, state=ImportState.FAILED, error=UpscaledError(_INTERRUPTED)
        )
    if record.error is None:
        return status
    error = UpscaledError(record.error)
    error.code = record.code
    return dataclasses.replace(status, error=error)
