"""`Listener`: an HTTP server that counts who reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable

from aiohttp import web


class Listener:
    """An HTTP server on all addresses of this machine; counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[web.BaseRequest] = []
        self.answer: Callable[[web.BaseRequest], web.StreamResponse] = lambda _: web.Response()
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer and note a request."""
        self.requests.append(request)
        return self.answer(request)


@contextlib.asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[Listener]:
    listener = Listener()
    server = web.Server(listener.handle)

    def protocol() -> asyncio.Protocol:
        listener.connections += 1
        return server()

    listening_socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    listener.port = listening_socket.getsockname()[1]
    serving = await asyncio.get_running_loop().create_server(
        protocol, sock=listening_socket, ssl=tls
    )
    try:
        yield listener
    finally:
        serving.close()
        await server.shutdown(1)
        await serving.wait_closed()
