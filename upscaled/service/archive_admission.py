"""Admission of archives: fields and an upload become a record and an open archive, or a refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from upscaled import files
from upscaled.archives.entries import Bounds
from upscaled.archives.errors import ArchiveTooLargeError
from upscaled.archives.kinds import recognised
from upscaled.archives.opened import OpenArchive
from upscaled.callers import Caller
from upscaled.config.settings import Config
from upscaled.errors import OUT_OF_SPACE, BadRequestError, NoSpaceError, mib_above, no_room
from upscaled.files import make_folder, sync
from upscaled.jobs.archive_records import ArchiveRecord
from upscaled.jobs.job import NAME_BYTES, new_job_id, shortened
from upscaled.jobs.workspace import Workspace
from upscaled.pictures import SizeLimit
from upscaled.service.admission import DISK_RESERVE, Admission
from upscaled.service.archive_run import ORIGINAL
from upscaled.service.job_options import parse_fields
from upscaled.submission_fields import CALLBACK_FIELDS, FIELDS, SOURCE_FIELDS

FIELD_NAMES = (*FIELDS, *CALLBACK_FIELDS, "only_below", "on_bad_page", "filename")
"""Fields of an archive. Those of `FIELDS` apply to each page, except ``client_ref``."""
_OPENED_AT_ONCE = 2
"""Archives that are looked at side by side."""
_OF_FORMATS = frozenset({"quality", "lossless"})
"""Fields that pages ignore if their format has no such option."""
_SOURCE = dict.fromkeys(SOURCE_FIELDS, "64")
"""A page that is small enough for everything."""


class ArchiveAdmission:
    """Turns uploads into archives that are open, within the configured limits.

    Args:
        config: the settings.
        admission: checks the fields.
        workspace: knows how much disk is free.
    """

    def __init__(self, config: Config, admission: Admission, workspace: Workspace) -> None:
        settings = config.archives
        self.bounds = Bounds(
            settings.max_entries,
            settings.max_entry_mb << 20,
            settings.max_unpacked_mb << 20,
            settings.max_ratio,
        )
        self._default_scale = config.upscaler.default_scale
        self._admission = admission
        self._workspace = workspace
        self._looking = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def record_of(
        self, fields: Mapping[str, str], filename: str, client: Caller, links_base: str
    ) -> ArchiveRecord:
        """Return the record of an archive before it is opened.

        Raises:
            BadRequestError: a field can't be used.
            OutboxFullError: too many webhook messages of the client are not delivered.
        """
        own = {name: value for name, value in fields.items() if name in FIELDS}
        label = own.get("client_ref")
        # Whether the fields go together; whether they suit each page shows later.
        parse_fields(own)
        checked = own if "format" in own else {n: own[n] for n in own if n not in _OF_FORMATS}
        await self._admission.plan({**checked, **_SOURCE}, None)
        own.pop("client_ref", None)
        limit = fields.get("only_below")
        if limit is not None:
            SizeLimit.parse(limit, "only_below")
        bad = fields.get("on_bad_page", "fail")
        if bad not in {"fail", "keep"}:
            raise BadRequestError(f"on_bad_page is {bad[:64]!r}; it must be fail or keep.")
        callback = await self._admission.receivers.accept(
            fields.get("callback_url"),
            fields.get("callback_events"),
            owner=client.owner,
            links_base=links_base,
        )
        return ArchiveRecord(
            id=new_job_id(),
            owner=client.owner,
            client=client.key,
            filename=shortened(fields.get("filename") or filename, NAME_BYTES),
            kind="",
            fields=own,
            entries=0,
            pages=0,
            created=time.time(),
            only_below=limit,
            keeps_failed=bad == "keep",
            client_ref=label,
            callback=callback,
        )

    async def adopt(
        self, record: ArchiveRecord, folder: Path, upload: Path
    ) -> tuple[ArchiveRecord, OpenArchive]:
        """Move an upload into its folder, and open it.

        Returns:
            The record with what is known now, and the archive, which the caller closes.

        Raises:
            NotAnArchiveError: it is no archive.
            UnusableArchiveError: it is broken or dangerous, or has no picture.
            ArchiveTooLargeError: a bound is exceeded.
            NoSpaceError: the disk has no room for it and its result.
        """
        free = max(0, await self._workspace.free_bytes(DISK_RESERVE) - DISK_RESERVE)
        async with self._looking:
            try:
                record, archive = await files.acquired_in_thread(
                    lambda: self._look_at(record, folder, upload, free),
                    lambda opened: opened[1].close(),
                )
            except OSError as error:
                if error.errno in OUT_OF_SPACE:
                    words = "The server's disk has no room for this archive."
                    raise NoSpaceError(no_room(error, words)) from error
                raise
        try:
            await self._check_disk(record, archive)
        except BaseException:
            await files.in_thread(archive.close)
            raise
        return record, archive

    def _look_at(
        self, record: ArchiveRecord, folder: Path, upload: Path, free: int
    ) -> tuple[ArchiveRecord, OpenArchive]:
        kind = recognised(upload, record.filename)
        make_folder(folder, 0o700)
        upload.rename(folder / ORIGINAL)
        bounds = replace(self.bounds, total_bytes=min(self.bounds.total_bytes, free))
        try:
            archive = OpenArchive.open(
                folder / ORIGINAL, kind, folder, bounds, record.fields.get("format")
            )
        except ArchiveTooLargeError as error:
            if bounds != self.bounds and kind.packed:
                raise NoSpaceError(
                    f"The archive unpacks to more than the {free >> 20} MiB that are free on the "
                    "server's disk; make room in storage.data_dir."
                ) from error
            raise
        try:
            for path in (folder / ORIGINAL, folder, folder.parent):
                sync(path)
        except BaseException:
            archive.close()
            raise
        entries, pages = len(archive.planned), len(archive.pages)
        return replace(record, kind=kind.name, entries=entries, pages=pages), archive

    async def _check_disk(self, record: ArchiveRecord, archive: OpenArchive) -> None:
        """Refuse an archive whose result would not fit on the disk.

        Pages are assumed to grow with their pixels.
        """
        fields = record.fields
        sized = "width" in fields or "height" in fields
        scale = 1 if sized else int(fields.get("scale", self._default_scale))
        need = sum(one.entry.size * (scale**2 if one.page else 1) for one in archive.planned) * (
            2 if archive.kind.packed else 1
        )
        free = await self._workspace.free_bytes(need + DISK_RESERVE) - DISK_RESERVE
        if need > free:
            free = max(0, free)
            raise NoSpaceError(
                f"The archive needs about {mib_above(need)} MiB on the server's disk and "
                f"{free >> 20} MiB are free; use a smaller scale, split the archive, or make room "
                "in storage.data_dir.",
                need=need,
                free=free,
            )
