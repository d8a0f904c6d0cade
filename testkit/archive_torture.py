"""Let a real server upscale an archive, and kill it again and again meanwhile.

`bench.archives` is the long form, and `tests/service/test_archive_kills.py` the short one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import time
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from testkit.server_process import ServerProcess, server_process

FIELDS = {"model_name": "realesr-animevideov3", "scale": "2"}
_LONGEST_PAUSE_SECONDS = 0.05
"""Between a page and a kill, so that a kill does not always find the same step."""


@dataclass
class Outcome:
    """What became of an archive."""

    pages: int = 0
    seconds: float = 0.0
    """From the submission to the end, without those in which the server was down."""
    sha256: str = ""
    """Of the download."""
    kills: int = 0
    done_at_kills: list[int] = field(default_factory=list)
    server_mib: float = 0.0
    """Peak of the server's own process."""
    most_files: int = 0
    """Most files of jobs that were there at a time, as far as was looked."""
    problems: list[str] = field(default_factory=list)


async def upscaled_book(
    folder: Path, models: Path, book: bytes, *, kills: int = 0, seed: int = 1
) -> Outcome:
    """Let a server of its own upscale ``book``; kill it at random moments.

    Args:
        folder: of the server.
        models: folder with the models.
        book: a CBZ.
        kills: how often it is killed.
        seed: chooses the moments.
    """
    found = Outcome()
    async with (
        server_process(folder, models, {"archives.max_entries": 20_000}) as server,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
    ):
        form = aiohttp.FormData(FIELDS)
        form.add_field("archive", book, filename="book.cbz")
        began = time.monotonic()
        async with session.post(server.url + "/archives", data=form) as answer:
            told = await answer.json()
            assert answer.status == 202, told
        address = f"/archives/{told['archive_id']}"
        found.pages = told["pages_total"]
        moments = random.Random(seed)
        for threshold in sorted(moments.randrange(found.pages - 1) for _ in range(kills)):
            await _reach(session, server, address, threshold)
            await asyncio.sleep(moments.uniform(0, _LONGEST_PAUSE_SECONDS))
            await _kill(server, found)
            began += await _restart(server)
            state = await _status(session, server, address)
            found.done_at_kills.append(state["pages_done"])
            if state["pages_done"] < threshold:
                found.problems.append(
                    f"after page {threshold}, {state['pages_done']} pages were left"
                )
        await _reach(session, server, address, found.pages + 1, found)
        found.seconds = time.monotonic() - began
        await _check(session, server, address, found)
    return found


async def _reach(
    session: aiohttp.ClientSession,
    server: ServerProcess,
    address: str,
    threshold: int,
    found: Outcome | None = None,
) -> None:
    """Follow the events until so many pages are done, or the archive has ended."""
    async for kind, content in events(session, server.url + address + "/events"):
        if kind == "page" and content["number"] >= threshold:
            return
        if found is not None and kind == "page" and content["number"] % 50 == 0:
            folders = server.data_dir / "jobs"
            files = sum(len(names) for _, _, names in os.walk(folders))  # some vanish meanwhile
            found.most_files = max(found.most_files, files)
        if kind == "update" and content["status"] != "processing":
            return


async def events(
    session: aiohttp.ClientSession, url: str
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield kind and content of the events of a stream."""
    kind = ""
    async with session.get(url) as response:
        async for line in response.content:
            if line.startswith(b"event: "):
                kind = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield kind, json.loads(line[6:])


async def _status(
    session: aiohttp.ClientSession, server: ServerProcess, address: str
) -> dict[str, Any]:
    async with session.get(server.url + address) as answer:
        shown: dict[str, Any] = await answer.json()
    return shown


def _measure(server: ServerProcess, found: Outcome) -> None:
    with contextlib.suppress(psutil.Error, OSError):
        for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                found.server_mib = max(found.server_mib, int(line.split()[1]) / 1024)


async def _kill(server: ServerProcess, found: Outcome) -> None:
    _measure(server, found)
    _, alive = await server.end(signal.SIGKILL)
    found.problems += [f"{child} outlived the server" for child in alive]
    found.kills += 1


async def _restart(server: ServerProcess) -> float:
    """Start the server again; return how long it was down."""
    began = time.monotonic()
    await server.start()
    await server.wait_until_ready()
    return time.monotonic() - began


async def _check(
    session: aiohttp.ClientSession, server: ServerProcess, address: str, found: Outcome
) -> None:
    _measure(server, found)
    state = await _status(session, server, address)
    if (state["status"], state["pages_upscaled"]) != ("completed", found.pages):
        found.problems.append(f"the archive ended so: {state}")
        return
    if server.files() != ["incoming", "jobs"] and server.files():
        found.problems.append(f"files were left: {server.files()[:5]}")
    if jobs := server.jobs():
        found.problems.append(f"{len(jobs)} jobs were left")
    async with session.get(server.url + address + "/download") as answer:
        content = await answer.read()
    found.sha256 = hashlib.sha256(content).hexdigest()
    if found.sha256 != state["sha256"]:
        found.problems.append("the digest of the download is not the announced one")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (bad := archive.testzip()) is not None:
            found.problems.append(f"{bad} is damaged")
        if len(archive.namelist()) < found.pages:
            found.problems.append(f"{len(archive.namelist())} entries are there")
