"""openapi.yaml, as a file and as a page (Swagger UI, from local files)."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from aiohttp import web

from upscaled.api.context import LINK_BASE

_WEB = files("upscaled") / "web"
_SERVER_LINE = "  - url: /api/v1\n"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".png": "image/png"}
_FROM_SWAGGER_UI = frozenset(
    {
        "favicon-16x16.png",
        "favicon-32x32.png",
        "index.css",
        "swagger-ui-bundle.js",
        "swagger-ui.css",
    }
)
_OWN = "docs.js"
_NAMES = _FROM_SWAGGER_UI | {_OWN}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>upscaled API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/index.css">
<link rel="icon" type="image/png" sizes="32x32" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>The contract: <a href="openapi.yaml">openapi.yaml</a></noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""
# Swagger UI sets style attributes and shows its icons as data: URLs; scripts come from files.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


@lru_cache(16)
def document(base: str) -> bytes:
    """Return openapi.yaml for a server whose endpoints are below ``base``."""
    text = (_WEB / "openapi.yaml").read_text("utf-8")
    return text.replace(_SERVER_LINE, f"  - url: {base}\n", 1).encode()


def swagger_ui() -> Path:
    """Return the folder with Swagger UI's files, without importing the package they come in.

    Raises:
        ModuleNotFoundError: the package flask-swagger-ui is not installed.
    """
    spec = find_spec("flask_swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("flask-swagger-ui is not installed", name="flask_swagger_ui")
    return Path(spec.submodule_search_locations[0]) / "dist"


async def openapi(request: web.Request) -> web.Response:
    """``GET /openapi.yaml``."""
    body = await asyncio.to_thread(document, request.app[LINK_BASE].of(request))
    return web.Response(body=body, content_type="application/yaml")


async def without_slash(_: web.Request) -> web.Response:
    """``GET /docs/``: a redirect to ``/docs``, relative so that it works under any path."""
    return web.Response(status=301, headers={"Location": "../docs"})


async def page(_: web.Request) -> web.Response:
    """``GET /docs``: Swagger UI."""
    return web.Response(
        text=_PAGE, content_type="text/html", headers={"Content-Security-Policy": _POLICY}
    )


@lru_cache(len(_NAMES))
def _asset(name: str) -> bytes:
    """Return a file; ``name`` must be in `_NAMES`."""
    return (_WEB / name if name == _OWN else swagger_ui() / name).read_bytes()


async def asset(request: web.Request) -> web.Response:
    """``GET /docs/{name}``: a file of the page."""
    name = request.match_info["name"]
    if name not in _NAMES:
        raise web.HTTPNotFound
    body = await asyncio.to_thread(_asset, name)
    return web.Response(
        body=body,
        content_type=_TYPES[Path(name).suffix],
        headers={"Cache-Control": "max-age=3600"},
    )
