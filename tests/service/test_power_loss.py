"""Power loss at any write: a sample of the states that ``python -m bench.power_loss`` tries."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from testkit.power_loss import replay
from upscaled import files
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline import checkpoint


async def test_no_accepted_job_is_lost_when_the_power_goes(
    tmp_path: Path, models_dir: Path
) -> None:
    tally = await replay(tmp_path, models_dir, thorough=False, most=250)
    assert tally.problems == []
    assert tally.operations > 60
    assert tally.states > 150
    assert tally.jobs > 200
    assert tally.resumable > 10


def _sync_of_files_only(path: Path) -> None:
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _nothing(_: object) -> None:
    pass


async def _unsynced_folder(*_: object) -> None:
    pass


UNSYNCED_FILES = SimpleNamespace(**{**vars(files), "sync": _nothing})


@pytest.mark.parametrize(
    ("module", "name", "stand_in"),
    [
        (files, "sync", _sync_of_files_only),
        (files, "sync", _nothing),
        (checkpoint, "files", UNSYNCED_FILES),
        (Workspace, "flush_folder", _unsynced_folder),
    ],
)
async def test_a_missing_sync_is_found(
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    stand_in: object,
) -> None:
    monkeypatch.setattr(module, name, stand_in)
    assert (await replay(tmp_path, models_dir, thorough=False, most=60)).problems


async def test_a_commit_of_the_store_is_synced(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    try:
        pragmas = [
            await store._do(lambda c, p=pragma: c.execute(f"PRAGMA {p}").fetchone()[0])  # type: ignore[misc]
            for pragma in ("journal_mode", "synchronous")
        ]
        assert pragmas == ["wal", 2]  # 2: FULL
    finally:
        await store.close()
