"""A small load balancer: passes each request on to one of several servers, in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import aiohttp
from aiohttp import web

_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip
_CHUNK = 1 << 18


class Balancer:
    """Passes requests on. One whose server does not take its connection goes to the next.

    Args:
        backends: base addresses of the servers.
    """

    def __init__(self, backends: Sequence[str]) -> None:
        self._backends = backends
        self._turns = itertools.count()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> int:
        """Listen; return the port."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2),
            connector=aiohttp.TCPConnector(limit=0),
        )
        app = web.Application(client_max_size=1 << 40)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP]
        first = next(self._turns)
        body = request.content if request.can_read_body else None
        for number in range(len(self._backends)):
            backend = self._backends[(first + number) % len(self._backends)]
            try:
                answer = await self._session.request(
                    request.method, backend + request.raw_path, headers=headers, data=body,
                    allow_redirects=False,
                )  # fmt: skip
            except aiohttp.ClientConnectorError:
                continue  # nothing of the body was read
            except aiohttp.ClientError as error:
                return web.json_response({"error": str(error), "code": "bad_gateway"}, status=502)
            return await self._answer(request, answer)
        return web.json_response(
            {"error": "No API server is there.", "code": "no_server"}, status=503
        )

    async def _answer(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        async with answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in answer.content.iter_chunked(_CHUNK):
                await response.write(piece)
            await response.write_eof()
            return response
