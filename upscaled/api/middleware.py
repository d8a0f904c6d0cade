"""The gate: what every request passes on its way in, and every answer on its way out.

One middleware and one hook call plain functions in order. A middleware for each of them would
read better in a table, but each costs a coroutine, a wrapper and look-ups a request; five of them
and three hooks took a fifth of the server's time for a status request.
"""

from __future__ import annotations

from typing import cast

from aiohttp import web

from upscaled.api.auth import Callers
from upscaled.api.connections import Connection
from upscaled.api.keys import CALL, Call
from upscaled.api.origins import Origins, asks_first, let_read, permission
from upscaled.api.request_ids import HEADER, id_of
from upscaled.api.responses import Handler, add_security_headers, answer_to_error, end_begun_answer
from upscaled.clients import Client
from upscaled.logs import request_id

_NOBODY = Client("", "")


class Gate:
    """Lets requests through to their handlers, or answers them itself.

    Args:
        origins: which pages of elsewhere may call.
        callers: tells who calls.
    """

    def __init__(self, origins: Origins, callers: Callers) -> None:
        self._origins = origins
        self._callers = callers

    @web.middleware
    async def through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, whatever happens.

        Its connection counts as busy meanwhile. What is logged on its behalf carries its id:
        aiohttp answers each request in a task of its own, so that the id ends with it.
        """
        call = request[CALL] = Call(id_of(request), _NOBODY, None)
        request_id.set(call.request_id)
        # Tests may serve the application without our connections.
        connection = request.protocol if isinstance(request.protocol, Connection) else None
        if connection is not None:
            connection.request_begins()
        try:
            origin = self._origins.allowed(request)
            if origin is not None and asks_first(request):
                return permission(origin)
            call.origin = origin
            call.client = self._callers.caller(request)
            return await handler(request)
        except Exception as error:
            if request.writer.output_size > 0:
                end_begun_answer(request, error)
            return answer_to_error(request, error)
        finally:
            if connection is not None:
                connection.request_ends()

    async def dress(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put on every answer what all have (a handler of ``on_response_prepare``).

        Those that are streamed and those that aiohttp gives of itself come by here too.
        """
        add_security_headers(response)
        call = cast("Call | None", request.get(CALL))
        if call is not None:  # else aiohttp refused it before it came to the gate
            response.headers[HEADER] = call.request_id
            if call.origin is not None:
                let_read(call.origin, response)
