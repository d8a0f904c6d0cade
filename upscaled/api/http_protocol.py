"""The web server's protocol, with our answers to what is no HTTP."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from upscaled.api.responses import refusal

log = logging.getLogger(__name__)


class Protocol(web.RequestHandler):
    """One connection's requests.

    aiohttp's own answer to a malformed request is plain text without our headers, and its log
    quotes the request, whose headers may hold a token.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that never reached the application, or broke it.

        Raises:
            ConnectionError: an answer has begun, so there can be no other.
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
            raise ConnectionError("an answer has begun; the connection can only be ended")
        if status >= 500:
            sentence = "Something went wrong in the server; its log tells what."
            response = refusal(sentence, "internal_error", 500)
        elif isinstance(exc, LineTooLong):
            sentence = "The request's address or one of its headers is too long."
            response = refusal(sentence, "bad_request", 400)
        else:
            sentence = "The request is not HTTP as this server understands it."
            response = refusal(sentence, "bad_request", 400)
        response.force_close()
        return response
