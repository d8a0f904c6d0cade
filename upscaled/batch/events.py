"""What a run reports: one event for each step of a picture, and the summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.pictures import Size


@dataclass(frozen=True)
class Begun:
    """The pictures are found; ``total`` of them."""

    total: int


@dataclass(frozen=True)
class Started:
    """Work on a picture begins."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Progressed:
    """A picture is ``percent`` done."""

    source: Path
    percent: int


@dataclass(frozen=True)
class Page:
    """A page of an archive has its place in the new one."""

    source: Path
    """The archive."""
    name: str
    """The page's name in it."""
    number: int
    """1 for the first page."""
    total: int
    """Pages of the archive."""
    state: str
    """``done``, or what stays as it is: ``large`` or ``failed``."""
    input_size: Size | None = None
    output_size: Size | None = None
    device: str | None = None
    code: str | None = None
    error: str | None = None
    """Why it failed, as a sentence."""


@dataclass(frozen=True)
class Done:
    """A result is in its place."""

    source: Path
    target: Path
    input_size: Size
    output_size: Size
    device: str
    seconds: float
    """From its start to its end, with waiting for others."""
    failed_pages: int = 0
    """Of an archive: pages that stay as they are."""


@dataclass(frozen=True)
class Failed:
    """A picture has no result; ``error`` is the sentence."""

    source: Path
    code: str
    error: str


@dataclass(frozen=True)
class Skipped:
    """Nothing had to be done."""

    source: Path
    reason: str
    """``unchanged``, ``exists``, ``large`` or ``result``."""


@dataclass(frozen=True)
class PlannedResult:
    """What would be done; in dry runs."""

    source: Path
    target: Path
    input_size: Size
    output_size: Size
    """Of an archive: its first page's."""
    seconds: float
    pages: int = 0
    """Of an archive: those that would be upscaled."""
    large_pages: int = 0
    """Those that stay as they are, since they are large enough."""
    failed_pages: int = 0
    """Those that can't be upscaled."""


@dataclass
class Summary:
    """A whole run."""

    total: int = 0
    done: int = 0
    planned: int = 0
    planned_seconds: float = 0.0
    failed: list[Failed] = field(default_factory=list)
    failed_pages: int = 0
    """Of archives that were made all the same."""
    skipped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    stopped: bool = False
    """It was ended before all pictures had their turn."""


Event = Begun | Started | Progressed | Page | Done | Failed | Skipped | PlannedResult | Summary
Report = Callable[[Event], None]
