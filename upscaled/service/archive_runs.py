"""`ArchiveRuns`: the archives that are worked on, each until its end is recorded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from upscaled.archives import assembly
from upscaled.archives.opened import OpenArchive
from upscaled.errors import NoSpaceError, UpscaledError
from upscaled.jobs.archive_records import ArchiveRecord, ArchiveState, ArchiveStore
from upscaled.service.archive_run import ArchiveRun, keep_only_result
from upscaled.webhooks.events import messages_of_archive

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
"""Pause before recording an end again that a full disk rejected."""

MakeRun = Callable[[ArchiveRecord, OpenArchive | None], ArchiveRun]


@dataclass
class _UnderWay:
    """An archive that is worked on."""

    run: ArchiveRun
    task: asyncio.Task[None]
    ending: bool = False
    """Its end is being recorded."""


class ArchiveRuns:
    """Lets archives run side by side, and records their ends.

    Args:
        store: records archives.
        folder: holds the folders of archives.
        make_run: returns the run of a record, and of the archive if that is open already.
    """

    def __init__(self, store: ArchiveStore, folder: Path, make_run: MakeRun) -> None:
        self._store = store
        self._folder = folder
        self._make_run = make_run
        self._under_way: dict[str, _UnderWay] = {}
        self._stopping = False
        self.on_messages: Callable[[ArchiveRecord], None] = lambda _: None
        """Called with an archive when messages about it were added to the outbox."""

    @property
    def records(self) -> list[ArchiveRecord]:
        """The archives that are worked on, as they are now."""
        return [one.run.record for one in self._under_way.values()]

    def of(self, archive_id: str) -> ArchiveRun | None:
        """Return the run of an archive; None if it has none."""
        one = self._under_way.get(archive_id)
        return None if one is None else one.run

    def start(self, record: ArchiveRecord, archive: OpenArchive | None = None) -> None:
        """Work on an archive.

        Args:
            record: the archive.
            archive: if it is open already; the run closes it.
        """
        run = self._make_run(record, archive)
        task = asyncio.create_task(self._work(run), name=f"archive-{record.id}")
        self._under_way[record.id] = _UnderWay(run, task)

    async def _work(self, run: ArchiveRun) -> None:
        """Let a run go on to its end, and record that."""
        try:
            record = replace(await run.run(), state=ArchiveState.COMPLETED)
        except UpscaledError as error:
            record = _failed(run.record, error.message, error.code)
        except Exception:
            log.exception("an archive ended unexpectedly", extra={"archive": run.record.id})
            words = "Something went wrong in the server; its log tells what."
            record = _failed(run.record, words, UpscaledError.code)
        finally:
            await run.close()
        self._under_way[record.id].ending = True
        await self._end(run, replace(record, client="", finished=time.time()))

    async def _end(self, run: ArchiveRun, record: ArchiveRecord) -> None:
        messages = messages_of_archive(record)
        while True:
            try:
                await self._store.put(record, messages=messages)
                break
            except NoSpaceError as error:
                log.error(
                    "archive's end can't be recorded yet",
                    extra={"archive": record.id, "reason": error.message},
                )
                if self._stopping:  # the next start does it
                    return
            await asyncio.sleep(_AGAIN_SECONDS)
        await run.jobs.drop_all()
        folder = self._folder / record.id
        if not record.has_result:
            await asyncio.to_thread((folder / assembly.RESULT).unlink, missing_ok=True)
        await asyncio.to_thread(keep_only_result, folder)
        run.record = record
        del self._under_way[record.id]
        run.tell()
        if messages:
            self.on_messages(record)
        log.info(
            "archive ended",
            extra={"archive": record.id, "state": record.state.value, "pages": record.done},
        )

    async def stop(self, archive_id: str) -> None:
        """Stop an archive's run, unless it is recording its end; nothing if it has none."""
        one = self._under_way.get(archive_id)
        if one is not None:
            await _stopped(one)

    async def drop(self, archive_id: str) -> None:
        """Delete the jobs of an archive's pages after a `stop`, and tell those who wait."""
        one = self._under_way.get(archive_id)
        if one is not None:
            await one.run.jobs.drop_all()
            if self._under_way.pop(archive_id, None) is not None:
                one.run.tell()

    async def close(self) -> None:
        """Stop all runs; the next start goes on with them."""
        self._stopping = True
        await asyncio.gather(*map(_stopped, list(self._under_way.values())))


async def _stopped(one: _UnderWay) -> None:
    if not one.ending:
        one.task.cancel()
    await asyncio.wait([one.task])


def _failed(record: ArchiveRecord, sentence: str, code: str) -> ArchiveRecord:
    return replace(record, state=ArchiveState.FAILED, error=sentence, code=code)
