"""The HTTP application: one table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from upscaled.api import docs, download, estimate, jobs, server_info
from upscaled.api.auth import Callers
from upscaled.api.connections import Connections
from upscaled.api.delivery import Deliveries
from upscaled.api.keys import CONNECTIONS, DELIVERIES, DESCRIPTIONS, PREFIX, RATES, SERVICE
from upscaled.api.middleware import Gate
from upscaled.api.origins import Origins
from upscaled.api.rate_limit import RateLimit
from upscaled.api.responses import Handler
from upscaled.api.status import Descriptions
from upscaled.clients import Proxies, Tokens

if TYPE_CHECKING:
    from upscaled.service.service import Service

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/upscale", jobs.submit),
    ("POST", "/estimate", estimate.estimate),
    ("GET", "/status/{job_id}", jobs.status),
    ("GET", "/download/{job_id}", download.download),
    ("POST", "/cancel/{job_id}", jobs.cancel),
    ("GET", "/receipt/{job_id}", jobs.receipt),
    ("GET", "/models", server_info.models),
    ("GET", "/health", server_info.health),
    ("GET", "/openapi.yaml", docs.openapi),
)
DOCS_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/docs", docs.page),
    ("GET", "/docs/", docs.without_slash),
    ("GET", "/docs/{name}", docs.asset),
)
OPEN_PATHS = ("/health", "/openapi.yaml", "/docs")
"""What needs no token: nothing of anybody's is to be seen there."""


async def _expectation(_: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to the handler, which may refuse before the body is sent."""


async def _end_waits(app: web.Application) -> None:
    """Let nobody's wait for a job delay the server's stop."""
    app[CONNECTIONS].end_waits()


def make_app(service: Service) -> web.Application:
    """Return the application that serves ``service``, which must have been started."""
    prefix = service.config.server.api_prefix
    server = service.config.server
    gate = Gate(
        Origins(server.cors_origins),
        Callers(
            Tokens(server.auth_token, server.tokens),
            Proxies(server.trusted_proxies),
            [prefix + path for path in OPEN_PATHS],
        ),
    )
    app = web.Application(middlewares=[gate.through])
    app.on_response_prepare.append(gate.dress)
    app.on_shutdown.append(_end_waits)
    app[SERVICE] = service
    app[PREFIX] = prefix
    app[CONNECTIONS] = Connections(server.max_connections, server.header_timeout_seconds)
    app[DELIVERIES] = Deliveries()
    app[DESCRIPTIONS] = Descriptions(prefix, service.outlook)
    app[RATES] = RateLimit(service.config.limits.rate_limit_per_minute)
    for method, path, handler in ROUTES + (DOCS_ROUTES if service.config.features.docs else ()):
        resource = app.router.add_resource(prefix + path)
        for one in ("GET", "HEAD") if method == "GET" else (method,):
            resource.add_route(one, handler, expect_handler=_expectation)
    return app
