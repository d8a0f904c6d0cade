"""The HTTP application, assembled from the table of routes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from upscaled.api import page, routes
from upscaled.api.auth import Authenticator
from upscaled.api.broadcasts import Broadcasts
from upscaled.api.connections import Connections
from upscaled.api.context import (
    BROADCASTS,
    CONNECTIONS,
    EVENT_STREAMS,
    LINK_BASE,
    METRICS,
    PREVIEW_RATE,
    SENDING,
    SERVICE,
    STATUS_RENDERER,
    SUBMISSION_RATE,
    TRANSFERS,
)
from upscaled.api.event_streams import EventStreams
from upscaled.api.hosts import HostPolicy
from upscaled.api.links import LinkBase
from upscaled.api.metrics import PATH as METRICS_PATH
from upscaled.api.metrics import make_handler, shared_port_check
from upscaled.api.middleware import Middleware
from upscaled.api.origins import OriginPolicy
from upscaled.api.rate_limit import RateLimit
from upscaled.api.sending import Sending
from upscaled.api.status_json import StatusRenderer
from upscaled.api.transfers import TransferTracker
from upscaled.callers import Proxies, Tokens
from upscaled.metrics.metrics import Metrics

if TYPE_CHECKING:
    from upscaled.service.service import Service


async def _no_continue(_: web.Request) -> None:
    """Do not send ``100 Continue`` yet: the handler may refuse before the body is sent."""


async def _end_waits(app: web.Application) -> None:
    """Answer callers that wait for a job, so that they do not delay the stop."""
    app[CONNECTIONS].end_waits()


def make_app(service: Service) -> web.Application:
    """Return the application that serves ``service``, which must have been started."""
    settings = service.config.server
    prefix = settings.api_prefix
    enabled = list(routes.enabled(service.config.features))
    tokens = Tokens(settings.auth_token, settings.tokens)
    proxies = Proxies(settings.trusted_proxies)
    names = list(settings.allowed_hosts)
    if public_host := urlsplit(settings.public_url).hostname:
        names.append(public_host)
    chosen = service.config.metrics
    metrics = Metrics(service) if chosen.enabled else None
    hosts = HostPolicy(settings.host, names, proxies)
    public = [prefix + route.path for route in enabled if route.public]
    if service.config.features.web:
        public.extend(page.PUBLIC)
    public.append(METRICS_PATH)
    middleware = Middleware(
        # Without its token a page of another site gets nothing, whatever name it uses.
        None if tokens else hosts,
        OriginPolicy(settings.cors_origins, hosts),
        Authenticator(tokens, proxies, public),
        metrics.http if metrics is not None else None,
    )
    app = web.Application(middlewares=[middleware.handle])
    app.on_response_prepare.append(middleware.add_headers)
    app.on_shutdown.append(_end_waits)
    app[SERVICE] = service
    app[METRICS] = metrics
    if metrics is not None:
        app.cleanup_ctx.append(metrics.counting)
        if not chosen.port:
            show = make_handler(metrics, shared_port_check(chosen.token))
            app.router.add_get(METRICS_PATH, show)
    app[CONNECTIONS] = Connections(
        settings.max_connections, settings.header_timeout_seconds, settings.send_timeout_seconds
    )
    app[TRANSFERS] = TransferTracker()
    streams = EventStreams(settings.max_connections, settings.send_timeout_seconds)
    app[EVENT_STREAMS] = streams
    app[BROADCASTS] = Broadcasts(streams)
    app[LINK_BASE] = LinkBase(prefix, settings.public_url, proxies)
    app[PREVIEW_RATE] = RateLimit(service.config.limits.previews_per_minute, "previews")
    app[SENDING] = Sending()
    app[STATUS_RENDERER] = StatusRenderer(service.jobs.outlook, service.config.storage)
    app[SUBMISSION_RATE] = RateLimit(service.config.limits.rate_limit_per_minute, "submissions")
    for route in enabled:
        resource = app.router.add_resource(prefix + route.path)
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            resource.add_route(method, route.handler, expect_handler=_no_continue)
    if service.config.features.web:
        for path, handler in page.ROUTES:
            app.router.add_get(path, handler)  # and HEAD
    return app
