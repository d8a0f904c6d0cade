"""The server's health."""

from __future__ import annotations

import time

from aiohttp import web

from upscaled import __version__
from upscaled.api.context import SERVICE
from upscaled.api.responses import json_response


async def health(request: web.Request) -> web.Response:
    """``GET /health``: 200 if pictures can be upscaled here, else 503."""
    told = await request.app[SERVICE].reports.health()
    content = {"status": told["status"], "version": __version__, "time": int(time.time())}
    return json_response({**content, **told}, status=200 if told["status"] == "ok" else 503)
