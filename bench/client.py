"""A client of the service that keeps its connection open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiofiles
import aiohttp

from testkit.server_process import ServerError, ServerProcess

FAST = "realesr-animevideov3"
SLOW = "realesrgan-x4plus"

_CHUNK = 1 << 20
_POLL_SECONDS = 0.025


class Client:
    """Client of one server.

    Args:
        session: for the connections.
        url: where the endpoints are.
        poll: seconds between two status requests for a job; None: one request waits for the
            job's end.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, poll: float | None) -> None:
        self._session = session
        self._url = url
        self._poll = poll
        self.status_requests = 0
        """How many status requests `until` has sent."""

    async def submit(self, content: bytes | Path, fields: Mapping[str, str]) -> str:
        """Submit a picture and return its job's id.

        Raises:
            ServerError: it was refused.
        """
        form = aiohttp.FormData(dict(fields))
        body = content if isinstance(content, bytes) else content.open("rb")
        form.add_field("image", body, filename="picture.png", content_type="image/png")
        async with self._session.post(self._url + "/upscale", data=form) as answer:
            if answer.status != 202:
                raise ServerError(f"submission: {answer.status} {await answer.text()}")
            return str((await answer.json())["job_id"])

    async def ask(self, what: str, job_id: str) -> dict[str, Any]:
        """Return the answer to ``GET /<what>/<job_id>``; ``job_id`` may end in a query.

        Raises:
            ServerError: the status is not 200.
        """
        async with self._session.get(f"{self._url}/{what}/{job_id}") as answer:
            if answer.status != 200:
                raise ServerError(f"{what}: {answer.status} {await answer.text()}")
            content: dict[str, Any] = await answer.json()
            return content

    async def until(self, job_id: str, progress: int = 100) -> dict[str, Any]:
        """Wait until the job is ``progress`` percent done and return its status.

        Raises:
            ServerError: it failed or was cancelled.
        """
        waits = self._poll is None and progress == 100
        while True:
            status = await self.ask("status", f"{job_id}?wait=60" if waits else job_id)
            self.status_requests += 1
            if status["status"] in {"failed", "cancelled"}:
                raise ServerError(f"job {job_id}: {status}")
            if status["status"] == "completed" or progress <= status.get("progress", 0) < 100:
                return status
            if not waits:
                await asyncio.sleep(self._poll or _POLL_SECONDS)

    async def download(self, job_id: str, target: Path | None = None) -> int:
        """Download the result, into ``target`` or to discard it; return its size in bytes.

        Raises:
            ServerError: the status is not 200.
        """
        size = 0
        async with self._session.get(f"{self._url}/download/{job_id}") as answer:
            if answer.status != 200:
                raise ServerError(f"download: {answer.status} {await answer.text()}")
            if target is None:
                async for chunk in answer.content.iter_any():
                    size += len(chunk)
                return size
            async with aiofiles.open(target, "wb") as file:
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    size += await file.write(chunk)
        return size

    async def whole(self, content: bytes | Path, fields: Mapping[str, str]) -> tuple[str, float]:
        """Submit, wait and download; return the job's id and the seconds to the last byte."""
        began = time.perf_counter()
        job_id = await self.submit(content, fields)
        await self.until(job_id)
        await self.download(job_id)
        return job_id, time.perf_counter() - began

    async def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        async with self._session.post(f"{self._url}/cancel/{job_id}") as answer:
            await answer.read()


@asynccontextmanager
async def connect(server: ServerProcess, poll: float | None = None) -> AsyncIterator[Client]:
    """Open a client of ``server`` for the length of the block."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Client(session, server.url, poll)
