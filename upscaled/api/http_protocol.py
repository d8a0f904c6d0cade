"""The web server's protocol, with our responses to what is not HTTP."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from upscaled.api.responses import error_response

log = logging.getLogger(__name__)


class Protocol(web.RequestHandler):
    """One connection's requests.

    aiohttp answers a malformed request in plain text without our headers, and its log quotes the
    request, whose headers may hold a token.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that never reached the application, or broke it.

        Raises:
            ConnectionError: a response has begun, so the connection can only be ended.
        """
        begun = request.writer.output_size > 0
        if begun and isinstance(exc, ConnectionError):
            raise exc  # logged where it was found
        kind = type(exc).__name__
        if status < 500 and isinstance(exc, HttpProcessingError):
            # Neither the exception's text nor its context: both quote what was sent.
            log.info("malformed request refused", extra={"peer": request.remote, "reason": kind})
        else:
            log.error("request failed", exc_info=exc, extra={"peer": request.remote})
        if begun:
            raise ConnectionError("a response has begun; the connection can only be ended")
        if status >= 500:
            sentence = "Something went wrong in the server; its log tells what."
            response = error_response(sentence, "internal_error", 500)
        elif isinstance(exc, LineTooLong):
            sentence = "The request's address or one of its headers is too long."
            response = error_response(sentence, "bad_request", 400)
        else:
            sentence = "The request is not HTTP as this server understands it."
            response = error_response(sentence, "bad_request", 400)
        response.force_close()
        return response
