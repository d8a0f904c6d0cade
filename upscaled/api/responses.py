"""What every answer has in common: compact JSON, the one error shape."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from aiohttp import web
from multidict import CIMultiDict

from upscaled.errors import UpscaledError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECURITY_HEADERS: Mapping[str, str] = {
    "Server": "upscaled",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer."""


_HEADERS: CIMultiDict[str] = CIMultiDict(
    {
        "Content-Type": "application/json; charset=utf-8",
        "Cache-Control": "no-store",
        **SECURITY_HEADERS,
    }
)
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def compact(content: Mapping[str, Any]) -> bytes:
    """Return ``content`` as JSON without a blank after ``:`` or ``,``: shell scripts grep it."""
    # A lone surrogate has no UTF-8; backslashreplace writes it as JSON's own escape.
    return _COMPACT.encode(content).encode("utf-8", "backslashreplace")


def answer(
    content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return ``content`` as JSON."""
    return answer_with(compact(content), status=status, headers=headers)


def answer_with(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return ``body``, which is JSON."""
    response = web.Response(body=body, status=status, headers=_HEADERS)
    if headers:
        response.headers.update(headers)
    return response


def refusal(
    message: str, code: str, status: int, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error in the one shape all errors have."""
    content = {"success": False, "error": message, "code": code}
    return answer(content, status=status, headers=headers)


def _of_http_exception(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return what aiohttp itself refuses (no such path, wrong method, …) in our shape."""
    code = re.sub(r"[^a-z]+", "_", error.reason.lower()).strip("_")
    headers: dict[str, str] = {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not allowed here; allowed: {allowed}."
        headers["Allow"] = allowed
    elif error.status == 404:
        message = f"There is nothing at {request.path}."
    else:
        message = f"{error.reason}."
    return refusal(message, code, error.status, headers)


def answer_to_error(request: web.Request, error: Exception) -> web.Response:
    """Return what a request is answered that ended in ``error``.

    An unexpected one is logged, never shown.
    """
    match error:
        case UpscaledError():
            log.log(
                logging.WARNING if error.status >= 500 else logging.INFO,
                "request refused",
                extra={
                    "method": request.method,
                    "path": request.path,
                    "status": error.status,
                    "code": error.code,
                    "reason": error.message,
                },
            )
            response = refusal(error.message, error.code, error.status, error.headers)
        case web.HTTPException():
            response = _of_http_exception(request, error)
        case ConnectionError():
            # The client is gone; nobody reads this answer, but aiohttp wants one.
            response = refusal("The connection was lost.", "connection_lost", 400)
        case _:
            log.error(
                "request failed",
                exc_info=error,
                extra={"method": request.method, "path": request.path},
            )
            response = refusal(
                "Something went wrong in the server; its log tells what.", "internal_error", 500
            )
    if request.can_read_body:
        # The rest of the body is not wanted. aiohttp drains it for a while, so that the client
        # gets to read this answer, and the connection ends after that.
        response.force_close()
    return response


def end_begun_answer(request: web.Request, error: Exception) -> NoReturn:
    """Break the connection of a request that failed after its answer had begun.

    A second answer would become part of the first one's body.

    Raises:
        ConnectionError: always; it makes aiohttp give the request up.
    """
    extra = {"method": request.method, "path": request.path}
    if isinstance(error, ConnectionError):
        log.info("the caller went away during the answer", extra=extra)
    else:
        log.error("request failed during the answer", exc_info=error, extra=extra)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError("the answer had begun") from error


def add_security_headers(response: web.StreamResponse) -> None:
    """Put `SECURITY_HEADERS` on a response that has not got them from `answer_with`."""
    headers = response.headers
    if "X-Frame-Options" not in headers:
        headers.update(SECURITY_HEADERS)
