"""Thousands of records of jobs in a server's store, without the work."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def multiply_job(data_dir: Path, copies: int, *, later: float = 0) -> None:
    """Put copies of the only job into the records of a running server, each with its own id.

    They look as if their results were downloaded, and as if they came ``later`` seconds after the
    sample, each a thousandth of a second after the one before; 0: at the same time.
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
            if later:
                copy["created"] = sample["created"] + later + number / 1000
                record = json.loads(copy["document"]) | {"created": copy["created"]}
                copy["document"] = json.dumps(record)
            records.execute(insert, tuple(copy.values()))
