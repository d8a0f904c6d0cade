"""Run the real curl."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from testkit.child_processes import child_process


@dataclass(frozen=True)
class Done:
    """How a run of curl ended."""

    returncode: int
    stdout: str
    stderr: str


async def curl(*arguments: str, cwd: Path | None = None) -> Done:
    """Run curl and wait for its end, a minute at most."""
    async with child_process(
        "curl",
        "--max-time",
        "60",
        *arguments,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    ) as process:
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, stdout.decode(), stderr.decode())
