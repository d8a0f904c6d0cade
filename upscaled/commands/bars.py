"""Progress on a terminal: a bar for each picture under way and one for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from upscaled.batch.events import (
    Begun,
    Done,
    Event,
    Failed,
    Page,
    PlannedResult,
    Progressed,
    Skipped,
    Started,
    Summary,
)
from upscaled.commands.wording import failure, page_failure, printable

_NAME_CHARACTERS = 40
_MOST_BARS = 12
"""Pictures under way that have a bar; more would not fit on the screen."""


class _Rate(ProgressColumn):
    """Pictures in a second or a minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min")


class BarReport:
    """Shows bars until the summary, which ``then`` prints.

    Args:
        stream: the terminal.
        then: prints the summary.
    """

    def __init__(self, stream: TextIO, then: Callable[[Event], None]) -> None:
        console = Console(file=stream, markup=False, emoji=False, highlight=False)
        self._then = then
        self._pictures = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._all = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
        )
        self._whole = self._all.add_task("All", total=None)
        self._bars: dict[Path, TaskID] = {}
        self._live = Live(
            Group(self._pictures, self._all), console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Begun():
                self._all.update(self._whole, total=event.total)
            case Started():
                name = printable(event.source)
                shown = (
                    name if len(name) <= _NAME_CHARACTERS else "…" + name[1 - _NAME_CHARACTERS :]
                )
                if len(self._bars) < _MOST_BARS:
                    self._bars[event.source] = self._pictures.add_task(shown, total=100)
            case Progressed() if event.source in self._bars:
                self._pictures.update(self._bars[event.source], completed=event.percent)
            case Page() if event.error:
                self._live.console.print(page_failure(event))
            case Failed():
                self._live.console.print(failure(event))
                self._ended(event.source)
            case Done() | Skipped() | PlannedResult():
                self._ended(event.source)
            case Summary():
                self._live.stop()
                self._then(event)

    def _ended(self, source: Path) -> None:
        bar = self._bars.pop(source, None)
        if bar is not None:
            self._pictures.remove_task(bar)
        self._all.advance(self._whole)
