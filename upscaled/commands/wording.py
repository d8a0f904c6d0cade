"""How outcomes and times of a run are worded."""

from __future__ import annotations

from pathlib import Path

from upscaled.batch.events import Failed, Page, PlannedResult, Summary

_SKIPPED = {
    "unchanged": "unchanged",
    "exists": "with a result already",
    "large": "large enough",
    "result": "results themselves",
}
"""Reasons in the summary, in its order."""


def printable(text: Path | str) -> str:
    """Return a path, or a sentence that may name one, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def failure(event: Failed) -> str:
    """Return the line about a picture that failed."""
    name, sentence = printable(event.source), printable(event.error)
    return f"upscaled: {sentence}" if name in sentence else f"upscaled: {name}: {sentence}"


def page_failure(event: Page) -> str:
    """Return the line about a page that stays as it is."""
    place = f"{printable(event.source)}, page {event.number}, {printable(event.name)}"
    return f"upscaled: {place}: {printable(event.error or '')}"


def planned(event: PlannedResult) -> str:
    """Return what would be done with a picture or an archive."""
    sizes, time = f"{event.input_size} to {event.output_size}", duration(event.seconds)
    if not event.pages + event.large_pages:
        return f"{sizes}, {time}"
    parts = [f"{_pages(event.pages)} to do ({sizes} and so on), {time}"] if event.pages else []
    if event.large_pages:
        parts.append(f"{_pages(event.large_pages)} large enough")
    if event.failed_pages:
        parts.append(f"{_pages(event.failed_pages)} can't be upscaled")
    return ", ".join(parts)


def _pages(count: int) -> str:
    return f"{count:,} page" if count == 1 else f"{count:,} pages"


def summary_lines(summary: Summary) -> list[str]:
    """Return the end of a run as lines."""
    parts = [f"{summary.done:,} done"] if summary.done or not summary.planned else []
    if summary.planned:
        parts.append(f"{summary.planned:,} to do, {duration(summary.planned_seconds)}")
    parts += [f"{summary.skipped[key]:,} {text}" for key, text in _SKIPPED.items()
              if summary.skipped[key]]  # fmt: skip
    if summary.failed:
        parts.append(f"{len(summary.failed):,} failed")
    if summary.failed_pages:
        one = summary.failed_pages == 1
        pages = "page left as it was" if one else "pages left as they were"
        if summary.planned:
            pages = "page stays as it is" if one else "pages stay as they are"
        parts.append(f"{summary.failed_pages:,} {pages}")
    noun = "picture" if summary.total == 1 else "pictures"
    lines = [f"{summary.total:,} {noun}: {', '.join(parts)}."]
    if summary.failed:
        lines += [
            "Failed:",
            *(failure(event).removeprefix("upscaled: ") for event in summary.failed),
        ]
    if summary.stopped:
        lines.append("Stopped before the end; the same command goes on.")
    return lines


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60} min"
