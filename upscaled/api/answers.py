"""What every answer has in common: compact JSON, the one error shape, the one error middleware."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

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


def answer(
    content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return ``content`` as JSON without a blank after ``:`` or ``,``: shell scripts grep it."""
    text = _COMPACT.encode(content)
    all_headers = _HEADERS.copy()
    if headers:
        all_headers.update(headers)
    # A lone surrogate has no UTF-8; backslashreplace writes it as JSON's own escape.
    body = text.encode("utf-8", "backslashreplace")
    return web.Response(body=body, status=status, headers=all_headers)


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


@web.middleware
async def errors_become_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into the one error shape; an unexpected one is logged, never shown."""
    try:
        return await handler(request)
    except UpscaledError as error:
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
    except web.HTTPException as error:
        response = _of_http_exception(request, error)
    except ConnectionError:
        # The client is gone; nobody reads this answer, but aiohttp wants one.
        response = refusal("The connection was lost.", "connection_lost", 400)
    except Exception:
        log.exception("request failed", extra={"method": request.method, "path": request.path})
        response = refusal(
            "Something went wrong in the server; its log tells what.", "internal_error", 500
        )
    if request.can_read_body:
        # The rest of the body is not wanted. aiohttp drains it for a while, so that the client
        # gets to read this answer, and the connection ends after that.
        response.force_close()
    return response


async def add_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Put `SECURITY_HEADERS` on an answer (a handler of ``on_response_prepare``)."""
    if "X-Frame-Options" not in response.headers:  # else `answer` has put them there
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
