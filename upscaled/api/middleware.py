"""What every request passes on its way in, and every response on its way out.

One middleware and one hook call plain functions in order. A middleware for each step would read
better in a table, but each costs a coroutine, a wrapper and look-ups a request: five of them and
three hooks took a fifth of the server's time for a status request.
"""

from __future__ import annotations

from typing import cast

from aiohttp import web

from upscaled.api import request_ids
from upscaled.api.auth import Authenticator
from upscaled.api.connections import Connection
from upscaled.api.context import CONTEXT, RequestContext
from upscaled.api.hosts import HostPolicy
from upscaled.api.origins import (
    OriginPolicy,
    add_cors_headers,
    is_preflight,
    preflight_response,
)
from upscaled.api.responses import (
    Handler,
    add_security_headers,
    end_begun_response,
    exception_response,
)
from upscaled.api.routes import check_query
from upscaled.callers import Caller
from upscaled.errors import UpscaledError
from upscaled.logs import request_id
from upscaled.metrics.http_metrics import HttpMetrics

_UNKNOWN = Caller("", "")


class Middleware:
    """Passes requests on to their handlers, or refuses them.

    Args:
        hosts: names that the server may be addressed by; None: any.
        origins: web pages that may call.
        authenticator: tells who calls.
        metrics: counts responses and refusals; None: nothing is counted.
    """

    def __init__(
        self,
        hosts: HostPolicy | None,
        origins: OriginPolicy,
        authenticator: Authenticator,
        metrics: HttpMetrics | None,
    ) -> None:
        self._hosts = hosts
        self._origins = origins
        self._authenticator = authenticator
        self._metrics = metrics

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the response to a request, whatever happens.

        The connection counts as busy meanwhile. Log lines carry the request's id: aiohttp
        handles each request in a task of its own, so the context variable ends with it.
        """
        context = request[CONTEXT] = RequestContext(request_ids.id_of(request), _UNKNOWN, None)
        request_id.set(context.request_id)
        # Tests may serve the application without our connections.
        connection = request.protocol if isinstance(request.protocol, Connection) else None
        if connection is not None:
            connection.request_begins()
        try:
            if self._hosts is not None:
                self._hosts.check(request)
            origin = self._origins.check(request)
            if origin is not None and is_preflight(request):
                return preflight_response(origin)
            context.cors_origin = origin
            context.client = self._authenticator.client(request)
            if request.query_string:
                check_query(request)
            return await handler(request)
        except Exception as error:
            if self._metrics is not None and isinstance(error, UpscaledError):
                self._metrics.refused(error.code)
            if request.writer.output_size > 0:
                end_begun_response(request, error)
            return exception_response(request, error)
        finally:
            if connection is not None:
                connection.request_ends()

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers that all responses have (a handler of ``on_response_prepare``).

        Streamed responses and aiohttp's own pass through here too.
        """
        add_security_headers(response)
        if self._metrics is not None:
            resource = request.match_info.route.resource
            endpoint = "other" if resource is None else resource.canonical
            self._metrics.responded(request.method, endpoint, response.status)
        context = cast("RequestContext | None", request.get(CONTEXT))
        if context is not None:  # else aiohttp refused it before the middleware
            response.headers[request_ids.HEADER] = context.request_id
            if context.rate_headers is not None:
                response.headers.update(context.rate_headers)
            if context.cors_origin is not None:
                add_cors_headers(context.cors_origin, response)
