"""``upscaled setup --binary`` installs what it should have got, or says what to do."""

from __future__ import annotations

import hashlib
import io
import platform
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from upscaled.commands.download import SetupError
from upscaled.commands.setup import PROGRAM, fetch

BODY = b"#!/bin/sh\necho a program\n"


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in members.items():
            content.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


GOOD = zipped(
    **{
        f"release/{PROGRAM}": BODY,
        "release/LICENSE": b"MIT",
        "release/models/x.bin": b"weights",
        "../../escaped": b"nothing good",
    }
)
EMPTY = zipped(other=b"x")
NO_ZIP = b"<html>sorry</html>"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(GOOD))})
        await response.prepare(request)
        await response.write(GOOD[: len(GOOD) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    def serving(data: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(_: web.Request) -> web.Response:
            return web.Response(body=data)

        return serve

    async def moved(_: web.Request) -> web.Response:
        raise web.HTTPFound("/good")

    app = web.Application()
    app.router.add_get("/good", serving(GOOD))
    app.router.add_get("/moved", moved)
    app.router.add_get("/empty", serving(EMPTY))
    app.router.add_get("/no-zip", serving(NO_ZIP))
    app.router.add_get("/cut", cut)
    running = TestServer(app)
    await running.start_server()
    yield running
    await running.close()


def url(server: TestServer, path: str) -> str:
    return str(server.make_url(path))


@pytest.mark.parametrize("path", ["/good", "/moved"])
async def test_the_program_and_its_licence_are_installed_and_nothing_else(
    server: TestServer, tmp_path: Path, path: str
) -> None:
    bin_dir = tmp_path / "a" / "bin"
    program = await fetch(bin_dir, url=url(server, path), sha256=digest(GOOD))
    assert program == bin_dir / PROGRAM
    assert program.read_bytes() == BODY
    assert program.stat().st_mode & 0o777 == 0o755
    assert sorted(item.name for item in bin_dir.iterdir()) == [PROGRAM, f"{PROGRAM}.LICENSE"]
    assert sorted(item.name for item in tmp_path.rglob("*") if item.is_file()) == [
        PROGRAM,
        f"{PROGRAM}.LICENSE",
    ]


@pytest.mark.parametrize(
    ("path", "expected", "sentence"),
    [
        ("/good", "0" * 64, "is not the expected file .*in another way.*builtin engine"),
        ("/nothing", digest(GOOD), r"can't be fetched \(404.*in another way.*builtin engine"),
        ("/cut", digest(GOOD), "can't be fetched .*in another way.*builtin engine"),
        ("/empty", digest(EMPTY), f"holds no {PROGRAM}"),
        ("/no-zip", digest(NO_ZIP), "is not a complete zip"),
    ],
)
async def test_a_bad_download_installs_nothing_and_keeps_what_was_there(
    server: TestServer, tmp_path: Path, path: str, expected: str, sentence: str
) -> None:
    (tmp_path / PROGRAM).write_text("the old one")
    with pytest.raises(SetupError, match=sentence):
        await fetch(tmp_path, url=url(server, path), sha256=expected)
    assert [item.name for item in tmp_path.iterdir()] == [PROGRAM]
    assert (tmp_path / PROGRAM).read_text() == "the old one"


async def test_an_unreachable_server_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"can't be fetched .*in another way.*builtin engine"):
        await fetch(tmp_path, url=f"http://127.0.0.1:{unused_port()}/", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


async def test_other_processors_are_told_to_use_the_builtin_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match=r"x86-64 only, and this machine is aarch64.*builtin"):
        await fetch(tmp_path)


async def test_a_folder_that_cannot_be_made_is_explained(
    server: TestServer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="can't be written: Not a directory"):
        await fetch(tmp_path / "file" / "bin", url=url(server, "/good"), sha256=digest(GOOD))
