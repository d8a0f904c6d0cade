"""How a run is shown: lines of text or JSON; on a terminal bars, see `bars`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TextIO

from upscaled import serial
from upscaled.batch.events import Done, Event, Failed, Page, PlannedResult, Report, Summary
from upscaled.commands.output import write_line
from upscaled.commands.wording import failure, page_failure, planned, printable, summary_lines


class JsonReport:
    """Prints each event as one line of JSON."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: Event) -> None:
        """Print an event."""
        told = serial.plain(event)
        if isinstance(event, Summary):
            told["failed"] = len(event.failed)
            told["skipped"] = dict(event.skipped)
            told["seconds"] = round(event.seconds, 2)
            told["planned_seconds"] = round(event.planned_seconds, 1)
        name = type(event).__name__.removesuffix("Result").lower()
        line = serial.encode({"event": name, **told})
        write_line(self._out, line.decode())


class LineReport:
    """Prints a line for each result, and what failed; the summary at the end.

    Args:
        out: for results and the summary.
        errors: for failures.
    """

    def __init__(self, out: TextIO, errors: TextIO) -> None:
        self._out = out
        self._errors = errors

    def __call__(self, event: Event) -> None:
        """Print an event, if it is one that is printed."""
        match event:
            case Done():
                sizes = f"{event.input_size} to {event.output_size}"
                self._print(f"{printable(event.target)}: {sizes} on {event.device}")
            case PlannedResult():
                self._print(f"{printable(event.target)}: {planned(event)}")
            case Failed():
                write_line(self._errors, failure(event))
            case Page() if event.error:
                write_line(self._errors, page_failure(event))
            case Summary():
                self._print("\n".join(summary_lines(event)))

    def _print(self, text: str) -> None:
        write_line(self._out, text)


@contextlib.contextmanager
def reporting(out: TextIO, errors: TextIO, *, json: bool) -> Iterator[Report]:
    """Yield what shows the events of a run."""
    if json:
        yield JsonReport(out)
    elif errors.isatty():
        from upscaled.commands.bars import BarReport  # noqa: PLC0415 - rich takes a tenth of a second

        with BarReport(errors, LineReport(out, errors)) as report:
            yield report
    else:
        yield LineReport(out, errors)
