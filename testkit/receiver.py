"""A webhook receiver for tests and benches."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Received:
    """One request that came."""

    headers: Mapping[str, str]
    body: bytes
    path: str

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """The message's id."""
        return self.headers["webhook-id"]


def _take(_: Received) -> web.Response:
    return web.Response(status=204)


@dataclass
class Receiver:
    """Notes every request; ``answer`` decides what it gets."""

    answer: Callable[[Received], web.Response] = _take
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    taken: list[Received] = field(default_factory=list)
    """Those that were answered with success."""
    busy: int = 0
    most_busy: int = 0
    hold: asyncio.Event | None = None
    """While it is there and not set, no request is answered."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where messages are to be sent."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        """Listen, after a restart on the same port."""
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        assert site._server is not None
        sockets = site._server.sockets  # type: ignore[attr-defined]
        self.port = sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        received = Received(dict(request.headers), await request.read(), request.path_qs)
        self.requests.append(received)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        async with self.changed:
            self.changed.notify_all()
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.busy -= 1
        response = self.answer(received)
        if response.status < 300:
            self.taken.append(received)
        async with self.changed:
            self.changed.notify_all()
        return response

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until ``condition`` holds; it is looked at after each request and each answer."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)


@contextlib.asynccontextmanager
async def receiving(
    answer: Callable[[Received], web.Response] = _take,
) -> AsyncIterator[Receiver]:
    """Run a receiver for the length of the block."""
    receiver = Receiver(answer)
    await receiver.start()
    try:
        yield receiver
    finally:
        if receiver.hold is not None:
            receiver.hold.set()
        await receiver.stop()
