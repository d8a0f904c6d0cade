"""The results of archives: sent, then deleted; and records that are too old."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from upscaled.archives import assembly
from upscaled.archives.kinds import kind_named, suffix_of
from upscaled.config.settings import Config
from upscaled.errors import WrongStateError
from upscaled.jobs.archive_records import ArchiveRecord, ArchiveState, ArchiveStore
from upscaled.jobs.job import shortened
from upscaled.jobs.results import ResultFile, gone
from upscaled.service.archive_run import keep_only_result
from upscaled.service.cleanup import ForwardJumps
from upscaled.service.grace import GracePeriods
from upscaled.webhooks.events import messages_of_archive

log = logging.getLogger(__name__)

_ROUND_SECONDS = 60.0
_STEM_BYTES = 200  # of a download's name, which may have 255 bytes altogether


class ArchiveResults:
    """The ended archives.

    Args:
        config: the settings.
        store: records archives.
        folder: holds the folders of archives.
    """

    def __init__(self, config: Config, store: ArchiveStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._default_scale = config.upscaler.default_scale
        self._keeps_delivered = not config.storage.delete_after_download
        self._result_ttl = config.storage.result_ttl_hours * 3600
        self._record_ttl = config.storage.record_ttl_hours * 3600
        self._grace = GracePeriods(config.storage.grace_minutes * 60)
        self._jumps = ForwardJumps()
        self.on_messages: Callable[[ArchiveRecord], None] = lambda _: None
        """Called with an archive when messages about it were added to the outbox."""
        self._changing = asyncio.Lock()
        """Held while an ended archive changes, so that a deleted one is not recorded again."""

    async def take_up(self, record: ArchiveRecord) -> None:
        """Take over an archive that ended in an earlier run."""
        folder = self._folder / record.id
        await asyncio.to_thread(keep_only_result, folder)
        there = await asyncio.to_thread((folder / assembly.RESULT).exists)
        if record.has_result and not there:
            log.error("archive's result is no longer on the disk", extra={"archive": record.id})
            await self._let_go(record.id, "lost")
        elif record.has_result and record.delivered is not None and not self._keeps_delivered:
            self._grace.begin(record.id, time.time() - record.delivered)

    def of(self, record: ArchiveRecord) -> ResultFile:
        """Return the file of an archive's result.

        Raises:
            WrongStateError: it is not completed.
            ResultGoneError: its result was downloaded or expired.
        """
        if record.state is not ArchiveState.COMPLETED:
            hint = "" if record.ended else "; poll its status until it is completed"
            raise WrongStateError(f"There is no result: the archive is {record.state.value}{hint}.")
        if record.result_gone is not None:
            raise gone(record.result_gone, "archive")
        kind = kind_named(record.kind)
        suffix = suffix_of(record.filename) or kind.suffixes[0]
        stem = shortened(record.filename.removesuffix(suffix), _STEM_BYTES) or "archive"
        sized = "width" in record.fields or "height" in record.fields
        ending = "" if sized else f"_{record.fields.get('scale', self._default_scale)}x"
        return ResultFile(
            self._folder / record.id / assembly.RESULT,
            f"{stem}{ending}{suffix}",
            kind.media_type,
            record.sha256,
        )

    def downloading(self, archive_id: str) -> AbstractContextManager[None]:
        """Return a block in which the end of a grace period does not delete the result."""
        return self._grace.downloading(archive_id)

    async def delivered(self, archive_id: str, *, to_proxy: bool = False) -> None:
        """Delete a result after every byte of it has arrived, if the settings say so.

        Args:
            archive_id: its archive, which may have been deleted meanwhile.
            to_proxy: at a proxy, which may still be passing the result on.
        """
        if self._keeps_delivered:
            return
        if not to_proxy or not self._grace.seconds:
            await self._let_go(archive_id, "downloaded")
            return
        async with self._changing:
            record = await self._store.get(archive_id)
            if record is not None and record.has_result:
                self._grace.begin(archive_id)
                await self._store.put(replace(record, delivered=time.time()))

    async def _let_go(self, archive_id: str, why: str) -> None:
        """Record that a result is gone, and delete it."""
        self._grace.forget(archive_id)
        async with self._changing:
            record = await self._store.get(archive_id)
            if record is None or not record.has_result:
                return
            record = replace(record, result_gone=why)
            messages = messages_of_archive(record)
            await self._store.put(record, messages=messages)
        if messages:
            self.on_messages(record)
        result = self._folder / archive_id / assembly.RESULT
        await asyncio.to_thread(result.unlink, missing_ok=True)
        log.info("archive's result deleted", extra={"archive": archive_id, "reason": why})

    async def forget(self, archive_id: str) -> None:
        """Delete an archive's record and files."""
        self._grace.forget(archive_id)
        async with self._changing:
            await self._store.delete(archive_id)
        await self.remove_folder(archive_id)

    async def remove_folder(self, name: str) -> None:
        """Delete the files of an archive."""
        await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)

    async def run(self) -> None:
        """Delete what is too old, every minute or more often; runs until cancelled."""
        shortest = min(self._result_ttl, self._record_ttl, self._grace.seconds or self._result_ttl)
        while True:
            try:
                await self._clean(time.time())
            except Exception:
                log.exception("The clean-up of archives failed; it is tried again.")
            await asyncio.sleep(min(_ROUND_SECONDS, shortest / 4))

    async def _clean(self, now: float) -> None:
        for archive_id in self._grace.over():
            await self._let_go(archive_id, "downloaded")
        before = now - self._result_ttl - self._jumps.within(self._result_ttl)
        for record in await self._store.all_of(finished_before=before):
            if record.has_result:
                why = "expired" if record.delivered is None else "downloaded"
                await self._let_go(record.id, why)
        before = now - self._record_ttl - self._jumps.within(self._record_ttl)
        for record in await self._store.all_of(finished_before=before):
            await self.forget(record.id)
