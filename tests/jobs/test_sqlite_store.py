import json
import sqlite3
from pathlib import Path

import pytest

from testkit.jobs import make_job
from testkit.store_contract import JobStoreContract
from upscaled import serial
from upscaled.errors import ConfigError
from upscaled.jobs.sqlite_store import MIGRATIONS, SqliteJobStore, migrate
from upscaled.jobs.store import JobFilter


class TestSqliteJobStore(JobStoreContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._file = tmp_path / "jobs.sqlite3"

    def make_store(self) -> SqliteJobStore:
        return SqliteJobStore(self._file)


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


async def test_jobs_of_the_version_before_are_listed(tmp_path: Path) -> None:
    file, job = tmp_path / "jobs.sqlite3", make_job(owner="ann")
    connection = sqlite3.connect(file)
    for script in MIGRATIONS[:2]:
        connection.executescript(script)
    document = {k: v for k, v in serial.plain(job).items() if k != "client_ref"}
    row = (job.id, "queued", job.created, None, 0, json.dumps(document))
    connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()
    store = SqliteJobStore(file)
    await store.open()
    wanted = JobFilter("ann", model=job.request.model_name)
    assert await store.page(wanted, None, 10) == [job]
    await store.close()
