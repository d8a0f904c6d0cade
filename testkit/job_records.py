"""Thousands of records of jobs in a server's store, without the work."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def multiply_job(data_dir: Path, copies: int) -> None:
    """Put copies of the only job into the records of a running server, each with its own id.

    They have the sample's time, and look as if their results were downloaded.
    """
    with closing(sqlite3.connect(data_dir / "jobs.sqlite3")) as records, records:
        columns = [row[1] for row in records.execute("PRAGMA table_info(jobs)")]
        values = records.execute("SELECT * FROM jobs").fetchone()
        sample: dict[str, Any] = dict(zip(columns, values, strict=True))
        insert = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for number in range(copies):
            new_id = str(10**18 + number)
            copy: dict[str, Any] = {
                name: value.replace(sample["id"], new_id) if isinstance(value, str) else value
                for name, value in sample.items()
            }
            copy["has_result"] = 0
            copy["document"] = copy["document"].replace(
                '"result_gone":null', '"result_gone":"downloaded"'
            )
            records.execute(insert, tuple(copy.values()))
