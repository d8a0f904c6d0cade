"""Real callers send 60 MB and continue a download that broke off: directly and behind proxies."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.cut_downloads import broken_off
from testkit.generators import CLIENTS, go_program, program, run
from testkit.proxies import KINDS, Proxy
from testkit.running import Api, Server

Command = list[str | Path]
COMMANDS: dict[str, Callable[[], Command]] = {
    "curl": lambda: ["sh", CLIENTS / "large.sh"],
    "wget": lambda: [program("wget") and "sh", CLIENTS / "large_wget.sh"],
    "node": lambda: [program("node"), CLIENTS / "large.mjs"],
    "php": lambda: [program("php"), CLIENTS / "large.php"],
    "python": lambda: [sys.executable, CLIENTS / "large.py"],
    "java": lambda: [program("javac") and program("java"), CLIENTS / "Large.java"],
    "go": lambda: [],  # compiled, see `command`
}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Command]:
    """Return the command of a client."""

    @functools.cache
    def compiled() -> Path:
        return go_program(CLIENTS / "large.go", tmp_path_factory.mktemp("go") / "client")

    return lambda name: [compiled()] if name == "go" else COMMANDS[name]()


@pytest.mark.timeout(400)  # the first one compiles Go's standard library
@pytest.mark.parametrize("front", ["direct", *KINDS])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_client_sends_60_mb_and_continues_a_download(
    server: Server, proxy: Callable[[str], Proxy], api: Api, command: Callable[[str], Command],
    large_upload: Path, tmp_path: Path, name: str, front: str,
) -> None:  # fmt: skip
    client = await asyncio.to_thread(command, name)
    base = server.url if front == "direct" else f"{proxy(front).root}/api/v1"
    job_id, result = await api.completed(), tmp_path / "result.png"
    content = await broken_off(server, job_id, f"{base}/download/{job_id}", result)
    said = await asyncio.to_thread(run, [*client, base, large_upload, job_id, result])
    (accepted,) = set(re.findall("[0-9]{19}", said))
    try:
        taken = Path(server.config.storage.data_dir) / "jobs" / accepted / "upload"
        assert taken.stat().st_size == large_upload.stat().st_size
        assert await asyncio.to_thread(result.read_bytes) == content
    finally:
        await api.post(f"/cancel/{accepted}")
