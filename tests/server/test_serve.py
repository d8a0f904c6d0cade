"""The server process: it can be stopped while it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testkit.paths import ROOT

# In a process of its own: OpenVINO, which other tests load, leaves a signal stack behind that is
# freed, and a signal to a process that was left with it ends that process.
_STOPPED_DURING_THE_START = """
import asyncio, os, sys
from pathlib import Path

from testkit.services import make_config
from upscaled.server.serve import serve
from upscaled.service.service import Service

folder, number = Path(sys.argv[1]), int(sys.argv[2])


async def long_start(_self):
    os.kill(os.getpid(), number)
    try:
        await asyncio.Event().wait()
    finally:
        print("tidied")


def never(url):
    raise AssertionError("it was ready")


Service.start = long_start
config = make_config(folder / "data", folder / "models", server__port="0")
asyncio.run(serve(config, never))
print("ended")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_that_is_asked_for_during_the_start_ends_it(tmp_path: Path, name: str) -> None:
    number = {"SIGINT": "2", "SIGTERM": "15"}[name]
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_DURING_THE_START, str(tmp_path), number],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "tidied\nended\n"), done.stderr
