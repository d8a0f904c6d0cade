"""Run the real curl."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a run of curl ended."""

    returncode: int
    stdout: str
    stderr: str


async def curl(*arguments: str, cwd: Path | None = None) -> Done:
    """Run curl and wait for its end, a minute at most."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--max-time",
        "60",
        *arguments,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, stdout.decode(), stderr.decode())
