"""What the server tells, as typed values."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.pictures import Size

ENDED = frozenset({"completed", "failed", "cancelled"})
"""The states in which nothing changes any more."""


@dataclass(frozen=True)
class Attempt:
    """One try at upscaling."""

    engine: str = ""
    device: str = ""
    tile_size: int = 0
    outcome: str = ""
    """``ok``, or the reason for the failure as a sentence."""


@dataclass(frozen=True)
class JobStatus:
    """A job; None: the server does not report this in the job's state. Times are in seconds."""

    job_id: str
    status: str
    """``queued``, ``processing``, ``completed``, ``failed`` or ``cancelled``."""
    progress: int | None = None
    """Percent."""
    stage: str | None = None
    """In events: ``preparing``, ``upscaling`` or ``finishing``."""
    queue_position: int | None = None
    """1: the next."""
    eta_seconds: float | None = None
    error: str | None = None
    duration_seconds: float | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    file_size_bytes: int | None = None
    model_name: str | None = None
    scale: int | None = None
    client_ref: str | None = None
    device: str | None = None
    attempts: tuple[Attempt, ...] = ()
    created: float | None = None
    """In lists: since 1970."""
    result_gone: str | None = None
    """In events: why the result is deleted."""

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.status in ENDED


@dataclass(frozen=True)
class ModelTime:
    """What a model takes for a job."""

    model_name: str
    seconds: float
    measured: bool
    """From measurements on that machine, not guessed."""


@dataclass(frozen=True)
class Estimate:
    """What a job would take."""

    model_name: str
    format: str
    input_size: Size
    output_size: Size
    seconds: float
    wait_seconds: float
    measured: bool
    """From measurements on that machine, not guessed."""
    memory_bytes: int
    disk_bytes: int
    models: tuple[ModelTime, ...] = ()
    """What the same job takes with each model that enlarges as far."""


@dataclass(frozen=True)
class ModelInfo:
    """An installed model."""

    name: str
    description: str
    supported_scales: tuple[int, ...]
    license: str = ""
    author: str | None = None


@dataclass(frozen=True)
class Health:
    """Whether the server can upscale."""

    status: str
    """``ok``, ``starting``, ``draining`` or what is wrong."""
    version: str = ""
    reason: str | None = None
    engine: str | None = None
    devices: tuple[str, ...] = ()
    queue_length: int | None = None
    processing: int | None = None


@dataclass(frozen=True)
class ArchiveStatus:
    """An archive whose pages are upscaled. Times are in seconds since 1970."""

    archive_id: str
    status: str
    """``processing``, ``completed`` or ``failed``."""
    progress: int
    """Percent."""
    filename: str
    kind: str
    """``zip``, ``cbz``, ``epub``, ``tar``, ``tar.gz`` and so on."""
    entries: int
    pages_total: int
    pages_done: int
    pages_upscaled: int
    pages_kept: int
    """As they were, since they are large enough."""
    pages_failed: int
    """As they were, since they can't be upscaled."""
    created: float
    finished: float | None = None
    error: str | None = None
    code: str | None = None
    file_size_bytes: int | None = None
    sha256: str | None = None
    """Of the new archive, in hexadecimal."""
    result_gone: str | None = None
    client_ref: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.status in ENDED


@dataclass(frozen=True)
class ArchivePage:
    """A page of an archive."""

    number: int
    """From 1."""
    name: str
    status: str
    """``queued``, ``processing``, ``upscaled``, ``kept`` or ``failed``."""
    progress: int = 0
    input_size: Size | None = None
    output_size: Size | None = None
    device: str | None = None
    error: str | None = None
    code: str | None = None
