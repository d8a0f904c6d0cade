"""Figures: the present counts and totals, for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from upscaled.engines.pool import Place


@dataclass(frozen=True)
class WorkerFigures:
    """A worker of a cluster in numbers. Totals are since its start."""

    jobs: int
    """Those that it does."""
    ended: Mapping[str, int]
    """Jobs that it ended, by their state, in total."""
    busy_seconds: float
    """How long its devices worked, in total."""


@dataclass(frozen=True)
class Figures:
    """The state of a service in numbers. Totals are since its start."""

    queued: int
    processing: int
    oldest_seconds: float
    """Age of the job that waits longest; 0 if none waits."""
    slots: int
    busy_seconds: Mapping[Place, float]
    """How long each device worked, in total."""
    verifications: Mapping[str, int]
    """Comparisons of results with their source, by outcome, in total."""
    uploads: int
    """Uploads in progress."""
    received_bytes: int
    """Of uploads, in total."""
    cache_answers: Mapping[str, int]
    """Look-ups in the result cache and joined jobs, by outcome, in total."""
    cache_bytes: int
    in_grace: int
    """Results that are kept after a proxy has received them."""
    webhook_jobs: int
    """Jobs with messages that are not delivered yet."""
    webhook_attempts: Mapping[str, int]
    """Attempts at delivering messages, by what became of the message, in total."""
    workers: Mapping[str, WorkerFigures] = field(default_factory=dict)
    """Those of a cluster that are there, by name."""
    members: Mapping[str, int] = field(default_factory=dict)
    """How many members of a cluster are there, by role."""
