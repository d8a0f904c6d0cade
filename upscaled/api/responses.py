"""How responses are made: compact JSON, one shape for all errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from aiohttp import web
from multidict import CIMultiDict

from upscaled.errors import UpscaledError, is_shortage

log = logging.getLogger(__name__)

_SHORTAGE_SECONDS = "5"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECURITY_HEADERS: Mapping[str, str] = {
    "Server": "upscaled",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every response."""

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


def json_response(
    content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return ``content`` as JSON."""
    return json_body_response(compact(content), status=status, headers=headers)


def json_body_response(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return ``body``, which is JSON."""
    response = web.Response(body=body, status=status, headers=_HEADERS)
    if headers:
        response.headers.update(headers)
    return response


def error_response(
    message: str, code: str, status: int, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error response; all errors have this shape."""
    content = {"success": False, "error": message, "code": code}
    return json_response(content, status=status, headers=headers)


def _of_http_exception(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return what aiohttp itself refuses (unknown path, wrong method) in our shape."""
    code = re.sub(r"[^a-z]+", "_", error.reason.lower()).strip("_")
    headers: dict[str, str] = {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.method} is not allowed here; use {allowed}."
        headers["Allow"] = allowed
    elif error.status == 404:
        message = f"There is nothing at {request.path}."
    else:
        message = f"{error.reason}."
    return error_response(message, code, error.status, headers)


def exception_response(request: web.Request, error: Exception) -> web.Response:
    """Return the response to a request that ended in ``error``.

    The text of an unexpected error goes to the log, never to the caller.
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
            response = error_response(error.message, error.code, error.status, error.headers)
        case web.HTTPException():
            response = _of_http_exception(request, error)
        case ConnectionError():
            # The caller is gone and reads nothing, but aiohttp wants a response.
            response = error_response("The connection was lost.", "connection_lost", 400)
        case _ if is_shortage(error):
            log.warning(
                "request refused",
                extra={"method": request.method, "path": request.path, "reason": str(error)},
            )
            response = error_response(
                "The server is short of open files, memory or disk access for the moment; "
                "try again in a few seconds.",
                "too_many_connections",
                503,
                {"Retry-After": _SHORTAGE_SECONDS},
            )
        case _:
            log.error(
                "request failed",
                exc_info=error,
                extra={"method": request.method, "path": request.path},
            )
            response = error_response(
                "Something went wrong in the server; its log tells what.", "internal_error", 500
            )
    if request.can_read_body:
        # The rest of the body is not wanted. aiohttp reads and drops it for a while, so that the
        # caller gets to read this response; then the connection ends.
        response.force_close()
    return response


def end_begun_response(request: web.Request, error: Exception) -> NoReturn:
    """Break the connection of a request that failed after its response had begun.

    A second response would become part of the first one's body.

    Raises:
        ConnectionError: always; it makes aiohttp give the request up.
    """
    extra = {"method": request.method, "path": request.path}
    if isinstance(error, ConnectionError):
        log.info("the caller went away during the response", extra=extra)
    else:
        log.error("request failed during the response", exc_info=error, extra=extra)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError("the response had begun") from error


def add_security_headers(response: web.StreamResponse) -> None:
    """Put `SECURITY_HEADERS` on a response that has not got them from `json_body_response`."""
    headers = response.headers
    if "X-Frame-Options" not in headers:
        headers.update(SECURITY_HEADERS)
