"""schemathesis, with all its checks, against the running server: it finds nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit import contract
from testkit.child_processes import child_process
from testkit.paths import ROOT
from testkit.running import Server

# What no schema can say: bytes that are no picture, a field in query and form,
# a size the picture already has, a quality for a result in PNG, a part beyond the picture.
# For /upscale, /estimate and /preview these are proper answers to data that fits the schema.
# The stream of /events has no end.
LONG = ("--request-timeout", "90", "--max-response-time", "90")
"""Answers may wait for a job; schemathesis expects them within ten seconds."""
CONFIG = """
[[operations]]
include-path = "/events"
enabled = false

[[operations]]
include-path-regex = "^/(estimate|preview)$"
checks.positive_data_acceptance.expected-statuses = [
  "2xx", "400", "415", "422", "401", "429", "503",
]

# An upload may be too large, and a piece may lie outside of it.
[[operations]]
include-path-regex = "^/uploads"
checks.positive_data_acceptance.expected-statuses = [
  "2xx", "400", "401", "403", "404", "409", "413", "429", "5xx",
]

[[operations]]
include-path = "/archives"
checks.positive_data_acceptance.expected-statuses = [
  "2xx", "400", "413", "415", "422", "401", "503",
]

[[operations]]
include-path-regex = "^/upscale"
checks.positive_data_acceptance.expected-statuses = [
  # The field `upload` may name none, or one that is not complete.
  "2xx", "400", "415", "422", "401", "404", "409", "503",
]

# The query has either `job_ids` or `all`.
[[operations]]
include-path = "/results"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "400", "401", "403", "404", "409", "410", "429", "5xx",
]

# A result that was downloaded before is gone; a range may lie outside of it.
[[operations]]
include-path-regex = "/download(/.job_id.)?$"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "401", "403", "404", "409", "410", "416", "429", "5xx",
]
"""


async def findings(server: Server, folder: Path, *options: str) -> str:
    """Run schemathesis; return what it found, nothing if nothing."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    async with child_process(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", str(contract.FILE), "--url", server.url),
        *("--checks", "all", "--seed", "1", "--continue-on-failure"),
        *("--suppress-health-check", "all", *LONG, *options),
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks",
             "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "140"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    ) as process:  # fmt: skip
        output, _ = await process.communicate()
    return "" if process.returncode == 0 else output.decode()


@pytest.mark.timeout(900)  # thousands of requests; a busy machine needs minutes for them
@pytest.mark.parametrize(("token", "examples"), [("", 25), ("open-sesame", 10)])
async def test_schemathesis_finds_nothing(
    serve: Callable[..., Server], tmp_path: Path, token: str, examples: int
) -> None:
    server = serve(
        self_test=True,
        server__auth_token=token,
        limits__max_queue_size="100000",
        archives__max_per_client="1000",
        archives__max_under_way="1000",
        outgoing__allow="127.0.0.1",
        outgoing__ports="9",
    )
    options = ["-H", f"Authorization: Bearer {token}"] if token else []
    found = await findings(server, tmp_path, "--max-examples", str(examples), *options)
    assert not found, found
    jobs = await asyncio.to_thread(server.jobs_with_files)
    assert jobs, "no submission was accepted, so little was tested"
    books = await asyncio.to_thread(lambda: list((server.data_dir / "archives").iterdir()))
    assert books, "no archive was accepted"
