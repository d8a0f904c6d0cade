"""The HTTP application: one table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Middleware

from upscaled.api import catalogue, contract, download, estimate, jobs
from upscaled.api.answers import Handler, add_security_headers, errors_become_answers
from upscaled.api.auth import callers_known
from upscaled.api.connections import Connections
from upscaled.api.delivery import Deliveries
from upscaled.api.keys import CONNECTIONS, DELIVERIES, PREFIX, RATES, SERVICE
from upscaled.api.origins import add_origin_headers, origins_checked
from upscaled.api.rates import RateLimit
from upscaled.api.request_ids import add_request_id, request_id_known
from upscaled.clients import Proxies, Tokens

if TYPE_CHECKING:
    from upscaled.service import Service

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/upscale", jobs.submit),
    ("POST", "/estimate", estimate.estimate),
    ("GET", "/status/{job_id}", jobs.status),
    ("GET", "/download/{job_id}", download.download),
    ("POST", "/cancel/{job_id}", jobs.cancel),
    ("GET", "/receipt/{job_id}", jobs.receipt),
    ("GET", "/models", catalogue.models),
    ("GET", "/health", catalogue.health),
    ("GET", "/openapi.yaml", contract.openapi),
)
DOCS_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/docs", contract.page),
    ("GET", "/docs/{name}", contract.asset),
)
OPEN_PATHS = ("/health", "/openapi.yaml", "/docs")
"""What needs no token: nothing of anybody's is to be seen there."""


async def _expectation(_: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to the handler, which may refuse before the body is sent."""


def make_app(service: Service) -> web.Application:
    """Return the application that serves ``service``, which must have been started."""
    prefix = service.config.server.api_prefix
    server = service.config.server
    connections = Connections(server.max_connections, server.header_timeout_seconds)
    middlewares: list[Middleware] = [
        request_id_known,
        connections.middleware(),
        errors_become_answers,
        origins_checked(server.cors_origins),
        callers_known(
            Tokens(server.auth_token, server.tokens),
            Proxies(server.trusted_proxies),
            [prefix + path for path in OPEN_PATHS],
        ),
    ]
    app = web.Application(middlewares=middlewares)
    app[SERVICE] = service
    app[PREFIX] = prefix
    app[CONNECTIONS] = connections
    app[DELIVERIES] = Deliveries()
    app[RATES] = RateLimit(service.config.limits.rate_limit_per_minute)
    app.on_response_prepare.extend([add_request_id, add_security_headers, add_origin_headers])
    for method, path, handler in ROUTES + (DOCS_ROUTES if service.config.features.docs else ()):
        resource = app.router.add_resource(prefix + path)
        for one in ("GET", "HEAD") if method == "GET" else (method,):
            resource.add_route(one, handler, expect_handler=_expectation)
    return app
