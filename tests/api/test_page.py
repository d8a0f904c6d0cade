"""The page as the server sends it: what it loads, what may be kept, who may see it."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from testkit.paths import ROOT
from testkit.running import Server

FOLDER = ROOT / "upscaled" / "web" / "page"
FIRST_PAINT = 100_000
"""Bytes that the page may take until it is drawn for the first time."""


async def fetched(
    url: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body as they came, not decompressed."""
    async with (
        aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
        ) as session,
        session.request(method, url, headers=headers, allow_redirects=False) as answer,
    ):
        named = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, named, await answer.read()


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


async def test_the_page_loads_only_what_this_server_has_and_runs_nothing_inline(
    server: Server,
) -> None:
    status, headers, body = await fetched(root(server))
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = body.decode()
    assert "{{" not in text
    assert "//" not in text.replace("<!doctype html>", "")
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on[a-z]+=", text)
    for address in re.findall(r'(?:src|href)="(assets/[^"]+)"', text):
        assert (await fetched(root(server) + address))[0] == 200, address
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"


async def test_every_module_that_the_page_imports_at_once_is_preloaded(server: Server) -> None:
    text = (await fetched(root(server)))[2].decode()
    preloaded = set(re.findall(r"modulepreload\" href=\"assets/[0-9a-f]+/([a-z]+\.js)", text))
    needed, new = set[str](), {"app.js"}
    while new:
        needed |= new
        found = (re.findall(r'^import .*"\./([a-z]+\.js)";', read(name), re.M) for name in new)
        new = {name for names in found for name in names} - needed
    assert preloaded == needed - {"app.js"}


def read(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


async def test_the_first_paint_takes_less_than_100_kilobytes(server: Server) -> None:
    _, headers, body = await fetched(root(server), {"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    total = len(body)
    addresses = re.findall(r'(?:src|href)="(assets/[^"]+)"', gzip.decompress(body).decode())
    for address in {*addresses}:
        total += len((await fetched(root(server) + address, {"Accept-Encoding": "gzip"}))[2])
    assert 10_000 < total < FIRST_PAINT


async def test_assets_are_kept_for_ever_under_the_digest_of_their_content(server: Server) -> None:
    text = (await fetched(root(server)))[2].decode()
    match = re.search(r"assets/([0-9a-f]{20})/", text)
    assert match is not None
    address = f"{root(server)}assets/{match[1]}/app.js"
    status, headers, body = await fetched(address)
    assert (status, body) == (200, (FOLDER / "app.js").read_bytes())
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    status, headers, zipped = await fetched(address, {"Accept-Encoding": "gzip, br"})
    assert gzip.decompress(zipped) == body
    assert headers["vary"] == "Accept-Encoding"
    assert (await fetched(address.replace(match[1], "0" * 20)))[0] == 404
    for name in ("index.html", "..%2f__init__.py", "nothing.js"):
        assert (await fetched(address.replace("app.js", name)))[0] == 404


async def test_the_page_is_not_sent_again_while_it_is_the_same(server: Server) -> None:
    _, headers, _ = await fetched(root(server))
    again = await fetched(root(server), {"If-None-Match": headers["etag"]})
    assert (again[0], again[2]) == (304, b"")
    assert (await fetched(root(server), method="HEAD"))[0] == 200


async def test_the_page_needs_no_token_and_opens_nothing_else(
    serve: Callable[..., Server],
) -> None:
    server = serve(server__auth_token="secret", server__api_prefix="/pictures/v9")
    status, _, body = await fetched(root(server))
    assert status == 200
    assert b'data-api="pictures/v9"' in body
    assert b"secret" not in body
    for path in ("pictures/v9/jobs", "pictures/v9/models", "nothing", "assetsx", "pictures"):
        assert (await fetched(root(server) + path))[0] == 401, path


async def test_the_page_can_be_switched_off(serve: Callable[..., Server]) -> None:
    server = serve(features__web="false")
    assert (await fetched(root(server)))[0] == 404
    assert (await fetched(f"{root(server)}assets/{'0' * 20}/app.js"))[0] == 404


def catalogue(name: str) -> dict[str, set[str]]:
    """Return the keys of a language with the values that their texts mention."""
    found = {}
    for key, text in re.findall(r'^  "([a-z.]+)": (.+),$', read(name), re.M):
        found[key] = set(re.findall(r"\{([a-z]+)\}", text))
    return found


def test_every_language_has_the_same_texts_with_the_same_values() -> None:
    english, german = catalogue("en.js"), catalogue("de.js")
    assert len(english) > 100
    assert english == german


def test_every_text_is_used_and_every_used_text_exists() -> None:
    sources = "".join(path.read_text("utf-8") for path in FOLDER.iterdir() if path.stem != "de")
    code = sources.replace(read("en.js"), "")
    used = set(re.findall(r'\bt\(\s*"([a-z.]+)"', code)) | set(
        re.findall(r'data-t="([a-z.]+)"', code)
    )
    english = catalogue("en.js")
    assert used <= english.keys()
    # Some keys are put together from a state or an action.
    stems = set(re.findall(r"t\(`([a-z]+)\.\$\{", code))
    for key in english.keys() - used:
        assert key.partition(".")[0] in stems or f'"{key}"' in code, key


@pytest.mark.timeout(240)
def test_the_wheel_has_every_file_of_the_page(tmp_path: Path) -> None:
    build = (
        "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    )
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "upscaled", source / "upscaled", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "openapi.yaml"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        inside = {Path(name).name for name in packed.namelist() if "/web/page/" in name}
    assert inside == {path.name for path in FOLDER.iterdir()}
