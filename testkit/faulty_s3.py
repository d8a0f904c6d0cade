"""A real S3 server (moto's) behind a proxy that answers in its place when it is to fail."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from enum import Enum

import aiohttp
from aiohttp import web
from moto.server import ThreadedMotoServer

from testkit.ports import free_port

_BUCKET = "pictures"


class Fault(Enum):
    """What the store does in place of its work."""

    NONE = "none"
    ERRORS = "errors"
    """Each request is answered 500."""
    SILENCE = "silence"
    """Each request is taken and never answered."""
    FULL = "full"
    """It stores nothing more."""
    CUT = "cut"
    """Each second answer of some length breaks off in the middle."""
    NO_BUCKET = "no bucket"
    """The bucket was deleted."""


def _error(status: int, code: str) -> web.Response:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}.</Message></Error>"
    return web.Response(status=status, text=body, content_type="application/xml")


class FaultyS3:
    """An S3 server on this machine, with a bucket, that can be told to fail.

    Args:
        host: the address on which it listens.
    """

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self._host = host
        self._fault = Fault.NONE
        self._methods: Collection[str] = ()
        self.faults = 0
        """Requests that met a fault."""
        self.url = f"s3://{_BUCKET}/some/prefix"
        self._port = free_port()
        self._healed = asyncio.Event()
        self._answers = 0

    def environment(self, host: str = "127.0.0.1") -> Mapping[str, str]:
        """Return the variables by which clients find the server at an address."""
        return {
            "AWS_ENDPOINT_URL": f"http://{host}:{self._port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    @contextlib.contextmanager
    def failing(
        self, fault: Fault, methods: Collection[str] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    ) -> Iterator[None]:
        """Let requests of these methods meet a fault for the length of the block."""
        self._fault, self._methods = fault, methods
        self._healed.clear()
        try:
            yield
        finally:
            self._fault = Fault.NONE
            self._healed.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyS3]:
        """Run the server for the length of the block."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
        inner = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
        await asyncio.to_thread(inner.start)
        host, port = inner.get_host_and_port()
        self._inner = f"http://{host}:{port}"
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as self._session:
                await runner.setup()
                await web.TCPSite(runner, self._host, self._port).start()
                async with self._session.put(f"{self._inner}/{_BUCKET}") as made:
                    made.raise_for_status()
                yield self
                await runner.cleanup()
        finally:
            await asyncio.to_thread(inner.stop)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        with contextlib.suppress(ConnectionError):  # of a client that has given up
            return await self._pass_on(request, await request.read())
        return web.Response()

    async def _pass_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        fault = self._fault if request.method in self._methods else Fault.NONE
        if fault is Fault.FULL and request.method not in {"PUT", "POST"}:
            fault = Fault.NONE
        self.faults += fault not in {Fault.NONE, Fault.CUT}
        match fault:
            case Fault.ERRORS:
                return _error(500, "InternalError")
            case Fault.SILENCE:
                await self._healed.wait()
                return _error(500, "InternalError")
            case Fault.FULL:
                return _error(507, "XMinioStorageFull")
            case Fault.NO_BUCKET:
                return _error(404, "NoSuchBucket")
        headers = {k: v for k, v in request.headers.items() if k.lower() != "content-length"}
        url = self._inner + request.raw_path
        async with self._session.request(
            request.method, url, data=io.BytesIO(body), headers=headers, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = {
                k: v
                for k, v in answer.headers.items()
                if k.lower() not in {"transfer-encoding", "connection", "date", "server"}
            }
        response = web.StreamResponse(status=answer.status, headers=kept)
        if request.method != "HEAD":
            response.content_length = len(content)
        await response.prepare(request)
        if fault is Fault.CUT and request.method == "GET" and len(content) > 1000:
            self._answers += 1
            if self._answers % 2:
                self.faults += 1
                await response.write(content[: len(content) // 2])
                assert request.transport is not None
                request.transport.abort()
                return response
        if request.method != "HEAD":
            await response.write(content)
        return response
