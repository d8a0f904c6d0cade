"""The job: one image in, one image out; its states and transitions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from upscaled.pictures import Size

# 19 decimal digits without a leading zero: 9e18 values from the system's randomness, so that an id
# can neither be guessed nor enumerated.
_ID_LOW = 10**18
_ID_COUNT = 9 * 10**18

NAME_BYTES = 255
"""The longest file name that file systems take (NAME_MAX in linux/limits.h), in UTF-8."""


def shortened(name: str, most_bytes: int) -> str:
    """Return the beginning of ``name``, as much as fits into ``most_bytes`` of UTF-8."""
    return name.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


class JobState(StrEnum):
    """The state of a job. The values are the API's."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
ACTIVE = frozenset({JobState.QUEUED, JobState.PROCESSING})

EXACT, FAST = "exact", "fast"
"""What a job may want of its network: a picture like that in 32 bits, or 16 bits where they are
quicker."""

SUCCESSORS: Mapping[JobState, frozenset[JobState]] = {
    # A picture that turns out to be broken during preparation fails without ever running, and one
    # whose work another job did is completed so.
    JobState.QUEUED: frozenset({JobState.PROCESSING}) | TERMINAL,
    # Back to queued: the server stopped or died during the job.
    JobState.PROCESSING: TERMINAL | {JobState.QUEUED},
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


@dataclass(frozen=True)
class JobRequest:
    """What the caller asked for, validated."""

    model_name: str
    scale: int | None
    """2, 3 or 4; None when the caller gave a size instead."""
    output_size: Size
    """The promised size of the result."""
    format: str
    """``png``, ``jpg`` or ``webp``."""
    tile_size: int = 0
    """Pixels per tile side; 0 leaves the choice to the engine."""
    tta: bool = False
    """Average the eight flips and rotations."""
    precision: str = EXACT
    """`EXACT` or `FAST`."""
    quality: int | None = None
    """1 to 100 for JPEG and lossy WebP; None: the encoder's default."""
    lossless: bool = False
    """WebP without loss."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB under transparent pixels, for formats without transparency."""
    keep_metadata: bool = True
    """Put the colour profile and EXIF of the upload into the result."""

    def factor(self, source: Size) -> float:
        """Return the result's width as a multiple of the source's."""
        return self.output_size.width / source.width


@dataclass(frozen=True)
class Attempt:
    """One try at upscaling, as the job's status reports it."""

    engine: str
    device: str
    tile_size: int
    outcome: str
    """``ok``, or the reason for the failure as a sentence."""


@dataclass(frozen=True)
class Callback:
    """Who is told of a job's events."""

    url: str
    """The receiver's address."""
    events: tuple[str, ...]
    """Names of the events, see `upscaled.webhooks.events`."""
    links_base: str
    """What the links in messages start with."""


@dataclass(frozen=True)
class Job:
    """One job. Times are seconds since the epoch; None if it has not happened yet."""

    id: str
    request: JobRequest
    input_name: str
    """The caller's file name, used only for the download's name; never a path."""
    input_format: str
    input_size: Size
    created: float
    state: JobState = JobState.QUEUED
    progress: int = 0
    """Percent, 0 to 100; 100 only when the result can be downloaded."""
    started: float | None = None
    finished: float | None = None
    file_size_bytes: int | None = None
    device: str | None = None
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()
    receipt: Mapping[str, Any] = field(default_factory=dict)
    """How the result was made; empty until it is complete."""
    runs: int = 0
    """How often work on it has started, including after restarts of the server."""
    crashes: int = 0
    """How often the server died while working on it."""
    server_fault: bool = False
    """The server, not the picture, caused its failure."""
    owner: str = ""
    """Name of the caller's token; callers with other tokens can't see the job."""
    client: str = ""
    """Key of the client whose share of the queue it counts towards, until it has ended."""
    client_ref: str | None = None
    """The caller's own label."""
    input_sha256: str = ""
    """SHA-256 of the upload, in hexadecimal; empty in records of earlier versions."""
    callback: Callback | None = None
    """The receiver of its events, if the caller named one."""
    delivered: float | None = None
    """When a proxy had received the whole result; its caller may still be reading."""
    work: str = ""
    """Digest of the work behind the result, by which the cache keeps it; empty before the end."""
    result_key: str = ""
    """Of the blob that holds the result, in a cluster."""
    result_gone: str | None = None
    """Why the file is deleted: ``downloaded``, ``expired`` or ``lost``."""

    @property
    def factor(self) -> float:
        """Width of the result as a multiple of the picture's."""
        return self.request.factor(self.input_size)

    @property
    def duration(self) -> float | None:
        """Seconds from the start of processing to the end; None before."""
        if self.started is None or self.finished is None:
            return None
        return max(0.0, self.finished - self.started)

    def to(self, state: JobState, **changes: Any) -> Job:
        """Return the job in its next state.

        Raises:
            ValueError: ``state`` cannot follow the present one.
        """
        if state not in SUCCESSORS[self.state]:
            raise ValueError(f"job {self.id}: {state} cannot follow {self.state}")
        return replace(self, state=state, **changes)


def new_job_id() -> str:
    """Return a new job id: 19 decimal digits, unguessable."""
    return str(_ID_LOW + secrets.randbelow(_ID_COUNT))


def is_job_id(text: str) -> bool:
    """Tell whether ``text`` has the form of a job id, and so is safe as a folder name."""
    return len(text) == 19 and text.isascii() and text.isdigit() and text[0] != "0"
