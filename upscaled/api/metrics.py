"""``GET /metrics``: the server's figures for Prometheus, and who may see them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from upscaled.api.auth import presented
from upscaled.api.connections import Connection
from upscaled.api.hosts import authorities, host_of
from upscaled.api.intermediaries import passed_a_proxy
from upscaled.api.responses import Handler, add_security_headers, exception_response
from upscaled.callers import Tokens
from upscaled.errors import ForbiddenMetricsError, UnauthorizedError
from upscaled.metrics.metrics import Metrics

PATH = "/metrics"
"""Next to ``server.api_prefix``: where Prometheus looks by default."""

_Check = Callable[[web.Request], None]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_from_here(request: web.Request) -> bool:
    """Tell whether a program on this machine asks, and not a proxy on behalf of somebody else."""
    return (
        _is_loopback(request.remote or "")
        and all(_is_loopback(host_of(named)) for named in authorities(request) or ("",))
        and not passed_a_proxy(request)
    )


def _token_check(token: str) -> _Check:
    """Return a check that a request carries ``token``, which may be its hash."""
    tokens = Tokens(token, ())

    def check(request: web.Request) -> None:
        if tokens and tokens.owner(presented(request)) is None:
            raise UnauthorizedError(
                "Metrics need the token of metrics.token, sent as `Authorization: Bearer …`."
            )

    return check


def make_handler(metrics: Metrics, check: _Check) -> Handler:
    """Return the handler of ``/metrics``; ``check`` raises if a request may not see them."""

    async def show(request: web.Request) -> web.Response:
        check(request)
        return web.Response(
            body=await metrics.render(),
            headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
        )

    return show


def shared_port_check(token: str) -> _Check:
    """Return the check for the port that callers use: programs on this machine, or the token."""
    check_token = _token_check(token)

    def check(request: web.Request) -> None:
        if _is_from_here(request):
            return
        if not token:
            raise ForbiddenMetricsError(
                "Metrics are shown to programs on this machine only; set metrics.token, or serve "
                "them on a port of their own with metrics.port."
            )
        check_token(request)

    return check


def make_metrics_app(metrics: Metrics, token: str) -> web.Application:
    """Return an application that serves ``/metrics`` alone, to callers with ``token`` if it is set.

    It is for a port that only the readers of the metrics can reach, with `Connections` of its own.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert isinstance(request.protocol, Connection)  # noqa: S101 - see `serve`
        request.protocol.request_begins()
        try:
            return await handler(request)
        except Exception as error:
            return exception_response(request, error)
        finally:
            request.protocol.request_ends()

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        add_security_headers(response)

    app = web.Application(middlewares=[answer])
    app.on_response_prepare.append(add_headers)
    app.router.add_get(PATH, make_handler(metrics, _token_check(token)))
    return app
