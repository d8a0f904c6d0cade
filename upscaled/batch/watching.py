"""A folder that is watched: new pictures are upscaled, then kept, moved or deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from upscaled.batch.batch import Batch, RunEndedError
from upscaled.batch.events import Done, Failed, PlannedResult, Report, Skipped
from upscaled.batch.items import Item, Selection, Unreadable, find
from upscaled.batch.ledger import Ledger, Signature
from upscaled.batch.naming import NameTakenError, Naming
from upscaled.batch.outputs import OutputGoneError
from upscaled.batch.settling import Settling
from upscaled.errors import UpscaledError

log = logging.getLogger(__name__)

_LATER = frozenset(
    {"insufficient_storage", "queue_full", "rate_limited", "shutting_down", "too_many_connections",
     "output_failed", "local_file", "unreachable", "unauthorized", "unexpected_answer",
     "forbidden_host"}
)  # fmt: skip
"""Codes of errors that are no fault of a picture: it is tried again."""
_LATER_SECONDS = 30.0
_PATIENCE = 5
"""A picture counts as failed only if it has not changed for this many times the time to settle:
from another machine it may arrive slowly, and it is unknown here whether it is still being
written."""
_SHARE = 0.1
"""Of the time that looking may take."""


class After(StrEnum):
    """What happens to a picture when its result is finished."""

    KEEP = "keep"
    MOVE = "move"
    DELETE = "delete"


@dataclass(frozen=True)
class WatchOptions:
    """How a folder is watched."""

    folder: Path
    selection: Selection
    after: After
    done_folder: Path
    """Where pictures go with `After.MOVE`."""
    failed_folder: Path
    """Where pictures go that can't be upscaled, each with a file beside it that says why."""
    settle_seconds: float
    """A picture is taken when it has not changed for this many seconds."""
    interval_seconds: float
    """Seconds between two scans; scans take at most a tenth of the time."""


class Watcher:
    """Watches a folder until it is cancelled.

    It scans the folder at intervals, since a network folder does not notify of changes by other
    machines. It continues what an earlier run left: the ledger says which pictures have a result.

    Args:
        batch: upscales the pictures.
        ledger: the batch's.
        naming: the batch's.
        options: see there.
        parallel: how many pictures are under way at a time.
        report: called with each outcome.
        complain: prints a sentence.
    """

    def __init__(
        self,
        batch: Batch,
        ledger: Ledger,
        naming: Naming,
        options: WatchOptions,
        parallel: int,
        report: Report,
        complain: Callable[[str], None],
    ) -> None:
        self._batch = batch
        self._ledger = ledger
        self._naming = naming
        self._options = options
        self._parallel = parallel
        self._report = report
        self._complain = complain
        self._settling = Settling(options.settle_seconds)
        self._queue: asyncio.Queue[tuple[Item, Signature]] = asyncio.Queue(parallel)
        self._queued: set[Path] = set()
        self._handled: dict[Path, Signature] = {}
        self._later: dict[Path, float] = {}
        self._complained: set[str] = set()

    async def run(self) -> None:
        """Watch, until this is cancelled.

        Raises:
            UpscaledError: a field is wrong for every picture, the output folder was deleted, or
                outcomes can't be reported.
            BrokenPipeError: nobody reads the reports.
        """
        await self._prepare()
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._parallel):
                    tasks.create_task(self._lane(), name=f"lane-{number}")
                while True:
                    began = time.monotonic()
                    there, complete = await asyncio.to_thread(self._look, began)
                    self._forget_others(there)
                    for item, signature in complete:
                        self._queued.add(item.source)
                        await self._queue.put((item, signature))
                    spent = time.monotonic() - began
                    await asyncio.sleep(max(self._options.interval_seconds, spent / _SHARE))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _prepare(self) -> None:
        """Wait until the upscaler can be used."""
        while True:
            try:
                await self._batch.prepare()
            except UpscaledError as error:
                if error.code not in _LATER:
                    raise
                self._complain_once(error.message)
                await asyncio.sleep(_LATER_SECONDS)
            else:
                return

    def _look(self, now: float) -> tuple[set[Path], list[tuple[Item, Signature]]]:
        """Return all pictures, and those that are complete and not handled yet; blocking.

        It runs in a thread while pictures are finished, so it changes nothing that they change.
        """
        items = {item.source: item for item in self._items()}

        def wanted(path: Path, signature: Signature) -> bool:
            return (
                path not in self._queued
                and self._handled.get(path) != signature
                and self._later.get(path, now) <= now
            )

        complete = [
            (items[path], signature) for path, signature in self._settling.look(items, now, wanted)
        ]
        return set(items), complete

    def _forget_others(self, there: set[Path]) -> None:
        """Forget pictures that are gone."""
        self._handled = {path: one for path, one in self._handled.items() if path in there}
        self._later = {path: until for path, until in self._later.items() if path in there}

    def _items(self) -> Iterator[Item]:
        options = self._options
        leave_out = (self._ledger.folder, options.done_folder, options.failed_folder)
        for found in find([str(options.folder)], options.selection, leave_out=leave_out):
            if isinstance(found, Unreadable):
                self._complain_once(found.reason)
            else:
                yield found

    def _complain_once(self, sentence: str) -> None:
        if sentence not in self._complained:
            if len(self._complained) > 1000:
                self._complained.clear()
            self._complained.add(sentence)
            self._complain(sentence)

    async def _lane(self) -> None:
        while True:
            item, signature = await self._queue.get()
            try:
                await self._handle(item, signature)
            except BrokenPipeError:
                raise
            except OSError as error:
                self._complain_once(f"{error.filename or item.source}: {error.strerror}.")
                self._handled[item.source] = signature
            finally:
                self._queued.discard(item.source)

    async def _handle(self, item: Item, signature: Signature) -> None:
        """Upscale one picture, then keep, move or delete it."""
        if await asyncio.to_thread(_signature_of, item.source) != signature:
            return  # it changed or went away while it waited
        try:
            outcome = await self._batch.outcome_of(item)
        except RunEndedError as error:
            if error.code == OutputGoneError.code:
                raise  # started again, the command makes the folder anew
            outcome = Failed(item.source, error.code, error.message)
        if isinstance(outcome, Failed) and outcome.code in _LATER:
            self._complain_once(outcome.error)
            self._later[item.source] = time.monotonic() + _LATER_SECONDS
            return
        since = self._settling.unchanged_since(item.source)
        patience = _PATIENCE * self._options.settle_seconds
        if isinstance(outcome, Failed) and since and time.monotonic() < since + patience:
            self._later[item.source] = since + patience  # perhaps only half of it is there
            return
        if await asyncio.to_thread(self._finish, item, signature, outcome):
            self._handled[item.source] = signature
            self._report(outcome)

    def _finish(
        self, item: Item, signature: Signature, outcome: Done | Failed | Skipped | PlannedResult
    ) -> bool:
        """Keep, move or delete a picture; blocking.

        Returns:
            False: another picture is there now, and stays.

        Raises:
            OSError: it can't be moved or deleted.
        """
        if _signature_of(item.source) != signature:
            return False
        if isinstance(outcome, Failed):
            place = _free(self._options.failed_folder / item.name)
            place.with_name(f"{place.name}.txt").write_text(f"{outcome.error}\n", "utf-8")
            shutil.move(item.source, place)
        elif isinstance(outcome, Skipped) and outcome.reason != "unchanged":
            return True
        elif self._options.after is After.MOVE:
            shutil.move(item.source, _free(self._options.done_folder / item.name))
        elif self._options.after is After.DELETE:
            item.source.unlink()
        elif self._options.after is After.KEEP:
            return True
        with contextlib.suppress(NameTakenError):
            target = self._naming.target_of(item)
            self._naming.release(target)
            self._ledger.drop(target)
        return True


def _signature_of(path: Path) -> Signature | None:
    try:
        return Signature.of(path)
    except OSError:
        return None


def _free(place: Path) -> Path:
    """Return a path near ``place`` at which nothing is; its folder is made.

    Raises:
        OSError: it can't be made.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    free = place
    while os.path.lexists(free):
        free = place.with_name(f"{place.stem}-{secrets.token_hex(3)}{place.suffix}")
    return free
