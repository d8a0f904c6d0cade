import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from testkit.jobs import make_job
from upscaled.errors import ConfigError
from upscaled.jobs.job import ACTIVE, JobState
from upscaled.jobs.sqlite_store import MIGRATIONS, SqliteJobStore, migrate


async def test_a_job_comes_back_as_it_was_put_in_and_after_reopening(tmp_path: Path) -> None:
    job = make_job(input_name="größe\x00\n'; DROP TABLE jobs.png")
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    await store.put(job)
    assert await store.get(job.id) == job
    await store.close()
    again = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await again.open()
    assert await again.get(job.id) == job
    await again.close()


async def test_writes_that_arrive_together_are_all_done(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    jobs = [make_job(created=float(n)) for n in range(600)]
    await asyncio.gather(*(store.put(job) for job in jobs))
    assert [job.id for job in await store.in_states(ACTIVE)] == [job.id for job in jobs]
    await store.close()


async def test_closing_first_writes_what_is_pending(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    job = make_job()
    putting = asyncio.create_task(store.put(job))
    await asyncio.wait([putting], timeout=0)
    await store.close()
    await putting
    await store.open()
    assert await store.get(job.id) == job
    await store.close()


async def test_jobs_are_found_by_their_end_and_their_result(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    done = make_job(state=JobState.COMPLETED, finished=10.0)
    gone = replace(make_job(state=JobState.COMPLETED, finished=11.0), result_gone="downloaded")
    failed = make_job(state=JobState.FAILED, finished=12.0)
    late = make_job(state=JobState.COMPLETED, finished=100.0)
    for job in (late, failed, gone, done, make_job()):
        await store.put(job)
    assert await store.finished_before(50.0, with_result=True) == [done]
    everything = await store.finished_before(50.0, with_result=False)
    assert {job.id for job in everything} == {done.id, gone.id, failed.id}
    await store.delete(done.id)
    assert await store.get(done.id) is None
    await store.close()


def schema(connection: sqlite3.Connection) -> list[str]:
    return sorted(
        " ".join(sql.split())
        for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    )


def test_migrations_sum_up_to_the_schema_from_every_earlier_version() -> None:
    whole = sqlite3.connect(":memory:", isolation_level=None)
    migrate(whole)
    for version in range(len(MIGRATIONS)):
        older = sqlite3.connect(":memory:", isolation_level=None)
        for script in MIGRATIONS[:version]:
            older.executescript(script)
        older.execute(f"PRAGMA user_version = {version}")
        migrate(older)
        assert schema(older) == schema(whole)
        older.close()
    whole.close()


async def test_records_of_a_later_version_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="later version of upscaled"):
        await SqliteJobStore(file).open()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    file.write_text("hello " * 1000)
    with pytest.raises(ConfigError, match="can't be used"):
        await SqliteJobStore(file).open()


async def test_one_failing_write_reports_to_its_caller(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    with pytest.raises(TypeError):
        await store.put(make_job(receipt={"not json": object()}))
    job = make_job()
    await store.put(job)
    assert await store.get(job.id) == job
    await store.close()


async def test_nobody_else_may_read_the_records(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    file.touch(0o644)
    file.chmod(0o644)
    store = SqliteJobStore(file)
    await store.open()
    await store.put(make_job())
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    await store.close()
    assert modes.pop("jobs.sqlite3") == "0o600"
    assert set(modes.values()) <= {"0o600"}, modes
