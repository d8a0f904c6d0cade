"""Where a service keeps jobs, their changes and their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from upscaled.config.settings import Config
from upscaled.jobs.archive_records import ArchiveStore
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.sqlite_store import FILE, SqliteJobStore
from upscaled.jobs.store import JobStore
from upscaled.jobs.workspace import Workspace
from upscaled.timing.estimator import RateStore
from upscaled.webhooks.events import messages_of


class Records(JobStore, RateStore, Protocol):
    """Job records, and how long work took."""


@dataclass(frozen=True)
class JobStorage:
    """Where jobs, their changes and their files are kept."""

    workspace: Workspace
    store: Records
    registry: JobRegistry
    archives: ArchiveStore | None = None
    """None: archives are not taken."""


def on_one_machine(config: Config) -> JobStorage:
    """Return the storage of a service on one machine: SQLite and a folder."""
    store = SqliteJobStore(config.data_dir / FILE)
    return JobStorage(
        Workspace(config.data_dir, keeps_uploads=config.features.web),
        store,
        JobRegistry(store, messages_of),
        store.archives if config.features.archives else None,
    )
