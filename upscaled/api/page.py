"""The page at ``/`` and its files. It uses the public API only."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import PurePath

from aiohttp import web

from upscaled import __version__
from upscaled.api.context import SERVICE

ASSETS = "/assets"
PUBLIC = ("/", ASSETS)
"""Paths of the page, none of which needs a token: they show nothing that belongs to a caller."""
_FOLDER = files("upscaled") / "web" / "page"
_INDEX = "index.html"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?(\s|,|$))")
# blob: is for pictures that the page fetched with a token or got from its user.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_INDEX_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
_ASSET_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
    # Modules of a page are fetched with CORS rules; no other site needs them.
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class _File:
    """A file of the page, as it is and compressed with gzip."""

    body: bytes
    gzipped: bytes
    media_type: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> _File:
        return cls(body, gzip.compress(body, 9, mtime=0), media_type)

    def response(self, request: web.Request, headers: Mapping[str, str]) -> web.Response:
        """Return the file, compressed where the caller takes that."""
        response = web.Response(content_type=self.media_type, charset="utf-8", headers=headers)
        if _GZIP.search(request.headers.get("Accept-Encoding", "")):
            response.headers["Content-Encoding"] = "gzip"
            response.body = self.gzipped
        else:
            response.body = self.body
        return response


@dataclass(frozen=True)
class Assets:
    """All files that the page loads, under one digest.

    Modules import each other by relative addresses. So the digest is a folder in the address, and
    it covers all files: another version of one file gives each of them another address.
    """

    digest: str
    files: Mapping[str, _File]


@lru_cache(1)
def assets() -> Assets:
    """Read the page's files, once for the life of the process."""
    digest = hashlib.sha256()
    found = {}
    for entry in sorted(_FOLDER.iterdir(), key=lambda entry: entry.name):
        suffix = PurePath(entry.name).suffix
        if suffix not in _TYPES:
            continue
        body = entry.read_bytes()
        digest.update(b"%a %d\n%b" % (entry.name, len(body), body))
        found[entry.name] = _File.of(body, _TYPES[suffix])
    return Assets(digest.hexdigest()[:20], found)


@lru_cache(4)
def _index(prefix: str) -> tuple[_File, str]:
    """Return the page itself with its entity tag, for a server with this ``server.api_prefix``."""
    text = (_FOLDER / _INDEX).read_text("utf-8")
    values = {
        # Relative, so that the page works below any path that a proxy strips.
        "{{assets}}": f"{ASSETS[1:]}/{assets().digest}",
        "{{api}}": html.escape(prefix[1:]),
        "{{version}}": html.escape(__version__),
    }
    for mark, value in values.items():
        text = text.replace(mark, value)
    body = text.encode()
    return _File.of(body, "text/html"), f'"{hashlib.sha256(body).hexdigest()[:20]}"'


async def index(request: web.Request) -> web.StreamResponse:
    """``GET /``: the page."""
    prefix = request.app[SERVICE].config.server.api_prefix
    file, tag = await asyncio.to_thread(_index, prefix)
    headers = {**_INDEX_HEADERS, "ETag": tag}
    if tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return file.response(request, headers)


async def asset(request: web.Request) -> web.StreamResponse:
    """``GET /assets/{digest}/{name}``: a file of the page, to be kept for ever."""
    known = await asyncio.to_thread(assets)
    file = known.files.get(request.match_info["name"])
    if file is None or request.match_info["digest"] != known.digest:
        raise web.HTTPNotFound
    return file.response(request, _ASSET_HEADERS)


ROUTES = (("/", index), (ASSETS + "/{digest}/{name}", asset))
"""Paths at the server's root, outside ``server.api_prefix``, and their handlers."""
