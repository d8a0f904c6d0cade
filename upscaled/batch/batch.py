"""The loop over the pictures of a run."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from upscaled import files, serial
from upscaled.batch.archive_dry_run import planned_archive
from upscaled.batch.archive_upscaler import is_archive
from upscaled.batch.events import (
    Begun,
    Done,
    Failed,
    PlannedResult,
    Report,
    Skipped,
    Started,
    Summary,
)
from upscaled.batch.item_list import ItemList
from upscaled.batch.items import Item, Unreadable
from upscaled.batch.ledger import Ledger, LedgerEntry, Signature, is_current
from upscaled.batch.naming import NamesResults, NameTakenError, fields_for
from upscaled.batch.outputs import OutputError, UnreadableError, as_sentence
from upscaled.batch.room import Room
from upscaled.batch.upscaler import Task, Upscaler
from upscaled.errors import UpscaledError
from upscaled.pictures import Size, SizeLimit

log = logging.getLogger(__name__)

_TOGETHER = 64
"""Pictures that get their names at a time."""
_Place = Path | Exception | None
"""Where a picture's result goes, or why it can't; None: the picture is a result itself."""
_LOOKS = 256
"""Pictures at a time of a dry run, which only reads headers; several processes do so."""
_MOST_ESTIMATES = 4096
"""How many are remembered: most pictures of a folder are of a few sizes."""
_ENDS_ALL = frozenset(
    {"unreachable", "unauthorized", "forbidden_host", "unexpected_answer", "output_gone"}
)
"""Codes of errors that every further picture would end with too."""


class RunEndedError(UpscaledError):
    """Every further picture would fail alike, so the run ends; the next run continues."""


@dataclass(frozen=True)
class Options:
    """How a run decides about a picture."""

    fields: Mapping[str, str]
    """Those of the API that were given."""
    only_below: SizeLimit | None = None
    skip_existing: bool = False
    dry_run: bool = False
    reserve_names: bool = False
    """Record a result's name before it is made, so that a later run gives its picture the same."""


class Batch:
    """Upscales pictures side by side; a bad one stops none of the others.

    Args:
        upscaler: makes the results.
        size_of: reads the size of a picture.
        ledger: what earlier runs made; new outcomes are recorded there. None: nothing is recorded.
        naming: where results go.
        options: see there.
        report: called with each event.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        size_of: Callable[[Path], Awaitable[Size]],
        ledger: Ledger | None,
        naming: NamesResults,
        options: Options,
        report: Report,
    ) -> None:
        self.summary = Summary()
        self._upscaler = upscaler
        self._size_of = size_of
        self._ledger = ledger
        self._naming = naming
        self._options = options
        self._report = report
        self._fields = dict(options.fields)
        self._names = asyncio.Lock()
        self._waiting: Iterator[Item | Unreadable] = iter(())
        self._placed: deque[tuple[Item | Unreadable, _Place]] = deque()
        self._folders: set[Path] = set()
        self._estimates: dict[tuple[object, ...], tuple[Size, float]] = {}
        self._estimating = asyncio.Semaphore(upscaler.parallel)
        self._room = Room(upscaler, report)
        self._began = time.monotonic()

    async def prepare(self) -> None:
        """Fill in the default model and scale; call it before anything else.

        Raises:
            UpscaledError: a field is wrong for every picture, or the server can't be used.
        """
        self._fields = await self._upscaler.completed(self._options.fields)

    async def run(self, found: Iterable[Item | Unreadable]) -> Summary:
        """Take all pictures; return what became of them.

        Raises:
            RunEndedError: every further picture would fail alike.
        """
        items = await asyncio.to_thread(ItemList, found)
        self.summary.total = len(items)
        self._report(Begun(len(items)))
        self._waiting = iter(items)
        try:
            async with asyncio.TaskGroup() as lanes:
                for number in range(min(self._parallel, len(items))):
                    lanes.create_task(self._lane(), name=f"lane-{number}")
        except ExceptionGroup as group:
            self.summary.stopped = True
            raise group.exceptions[0] from None
        except asyncio.CancelledError:
            self.summary.stopped = True
            raise
        finally:
            self.summary.seconds = time.monotonic() - self._began
        return self.summary

    @property
    def _parallel(self) -> int:
        return _LOOKS if self._options.dry_run else self._upscaler.parallel

    async def _lane(self) -> None:
        while (taken := await self._next()) is not None:
            outcome = await self._outcome(*taken)
            self._count(outcome)
            self._report(outcome)

    async def _next(self) -> tuple[Item | Unreadable, _Place] | None:
        """Return the next picture with its place; None: there is none.

        Names are given in the pictures' order: of two for one result, the first one has it.
        """
        async with self._names:
            if not self._placed:
                some = list(itertools.islice(self._waiting, _TOGETHER))
                places = await asyncio.to_thread(lambda: [self._place_of(item) for item in some])
                self._placed.extend(zip(some, places, strict=True))
            return self._placed.popleft() if self._placed else None

    def _place_of(self, item: Item | Unreadable) -> _Place:
        """Return where a picture's result goes; blocking."""
        try:
            if isinstance(item, Unreadable) or self._naming.is_result(item):
                return None
            return self._naming.target_of(item)
        except Exception as error:  # the picture's outcome tells it
            return error

    async def outcome_of(self, item: Item) -> Done | Failed | Skipped | PlannedResult:
        """Decide about one picture and upscale it if need be; return the outcome.

        Raises:
            RunEndedError: every further picture would fail alike.
        """
        async with self._names:
            place = await asyncio.to_thread(self._place_of, item)
        return await self._outcome(item, place)

    async def _outcome(
        self, item: Item | Unreadable, place: _Place
    ) -> Done | Failed | Skipped | PlannedResult:
        outcome: Done | Failed | Skipped | PlannedResult
        try:
            if isinstance(item, Unreadable):
                outcome = Failed(item.source, "unreadable", item.reason)
            elif isinstance(place, Exception):
                raise place
            elif place is None:
                outcome = Skipped(item.source, "result")
            else:
                outcome = await self._taken(item.source, place)
        except UpscaledError as error:
            if error.code in _ENDS_ALL:
                ended = RunEndedError(error.message)
                ended.code = error.code
                raise ended from error
            outcome = Failed(item.source, error.code, error.message)
        except NameTakenError as error:
            outcome = Failed(item.source, "name_taken", str(error))
        except BrokenPipeError:  # the reader of the events is gone, so the run ends
            raise
        except Exception:
            log.exception("a picture ended unexpectedly", extra={"file": str(item.source)})
            outcome = Failed(
                item.source, "internal_error", "This is a fault of upscaled; its log tells more."
            )
        return outcome

    def _count(self, outcome: Done | Failed | Skipped | PlannedResult) -> None:
        match outcome:
            case Done():
                self.summary.done += 1
                self.summary.failed_pages += outcome.failed_pages
            case Failed():
                self.summary.failed.append(outcome)
            case Skipped():
                self.summary.skipped[outcome.reason] += 1
            case PlannedResult():
                self.summary.planned += 1
                self.summary.planned_seconds += outcome.seconds
                self.summary.failed_pages += outcome.failed_pages

    async def _taken(self, source: Path, target: Path) -> Done | Skipped | PlannedResult:
        fields = fields_for(target, self._fields)
        with as_sentence(source, UnreadableError):
            reason = await asyncio.to_thread(self._reason_to_skip, source, target, fields)
        if reason is not None:
            return Skipped(source, reason)
        if is_archive(source):
            if self._options.dry_run:
                task = Task(source, target, fields)
                only_below = self._options.only_below
                return await planned_archive(task, self._upscaler, self._size_of, only_below)
        elif self._options.only_below is not None or self._options.dry_run:
            size = await self._size_of(source)
            if self._options.only_below and not self._options.only_below.takes(size):
                return Skipped(source, "large")
            if self._options.dry_run:
                made, seconds = await self._estimate(size, fields)
                return PlannedResult(source, target, size, made, seconds)
        return await self._upscaled(source, target, fields)

    async def _estimate(self, size: Size, fields: Mapping[str, str]) -> tuple[Size, float]:
        """Return what `Upscaler.estimate` does, which is asked few times about alike pictures."""
        key = (size, *fields.items())
        if key not in self._estimates:
            async with self._estimating:
                if key not in self._estimates:
                    estimate = await self._upscaler.estimate(size, fields)
                    if len(self._estimates) >= _MOST_ESTIMATES:
                        self._estimates.clear()
                    self._estimates[key] = estimate
                    return estimate
        return self._estimates[key]

    def _reason_to_skip(self, source: Path, target: Path, fields: dict[str, str]) -> str | None:
        """Return why there is nothing to do; blocking.

        Raises:
            UpscaledError: the result would replace the picture itself.
        """
        with as_sentence(target, OutputError):
            exists = os.path.lexists(target)
            is_itself = exists and target.exists() and target.samefile(source)
        if is_itself:
            raise UpscaledError(
                f"{target} is the picture itself; name another folder for the results, or a "
                "--suffix."
            )
        if self._options.skip_existing and exists:
            return "exists"
        if self._ledger is None:
            return None
        known = self._ledger.get(target)
        entry = is_current(known, target, source, self._ledger_options(source, fields))
        if entry is None:
            return None
        if entry is not known and not self._options.dry_run:
            self._ledger.put(entry)
        return "unchanged"

    async def _upscaled(self, source: Path, target: Path, fields: dict[str, str]) -> Done:
        if self._ledger is not None:
            with as_sentence(self._ledger.folder, OutputError):
                await asyncio.to_thread(self._ledger.check_place)
        self._report(Started(source, target))
        began = time.monotonic()
        with as_sentence(source, UnreadableError):
            path, signature, sha256 = await asyncio.to_thread(_read, source)
        with as_sentence(target, OutputError):
            await asyncio.to_thread(self._make_folder, target.parent)
        options = self._ledger_options(source, fields)
        task = Task(source, target, fields, _key(sha256, options))
        entry = LedgerEntry(self._key_of(target), path, signature, sha256, options)
        if self._options.reserve_names:
            await self._record(entry)
        try:
            made = await self._room.upscale(task)
        except UpscaledError as error:
            if error.code not in _ENDS_ALL:
                await self._record(dataclasses.replace(entry, code=error.code, error=error.message))
            raise
        with as_sentence(target, OutputError):
            size = (await asyncio.to_thread(target.stat)).st_size
        await self._record(dataclasses.replace(entry, result_bytes=size))
        await self._upscaler.recorded(task)
        seconds = round(time.monotonic() - began, 2)
        return Done(
            source, target, made.input_size, made.output_size, made.device, seconds,
            made.failed_pages,
        )  # fmt: skip

    def _ledger_options(self, source: Path, fields: Mapping[str, str]) -> dict[str, str]:
        """Return what a result depends on besides its picture."""
        options = _without_label(fields)
        if is_archive(source) and self._options.only_below is not None:
            options["only_below"] = str(self._options.only_below)
        return options

    def _make_folder(self, folder: Path) -> None:
        """Make a folder for results, and remove what a killed run left in it; blocking."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder not in self._folders:
            self._folders.add(folder)
            files.remove_parts(folder)

    def _key_of(self, target: Path) -> str:
        return str(target) if self._ledger is None else self._ledger.key(target)

    async def _record(self, entry: LedgerEntry) -> None:
        if self._ledger is not None:
            with as_sentence(self._ledger.folder, OutputError):
                await asyncio.to_thread(self._ledger.put, entry)


def _read(source: Path) -> tuple[str, Signature, str]:
    """Return a picture's absolute path, signature and SHA-256; blocking."""
    return str(source.absolute()), Signature.of(source), files.sha256_of(source)


def _key(sha256: str, fields: Mapping[str, str]) -> str:
    """Return what stands for a picture's content and fields."""
    options = hashlib.sha256(serial.encode(dict(sorted(fields.items())))).hexdigest()
    return f"{sha256[:32]}-{options[:16]}"


def _without_label(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that change a result."""
    return {name: value for name, value in fields.items() if name != "client_ref"}
