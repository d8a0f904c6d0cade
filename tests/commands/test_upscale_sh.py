"""``scripts/upscale.sh``: the round in plain sh, with a real server and with bad days."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from testkit.child_processes import child_process
from testkit.paths import ROOT
from testkit.running import FAST_MODEL, Server, a_picture, configured

SCRIPT = ROOT / "scripts/upscale.sh"
SHELLS = [
    shell for shell in ("dash", "busybox sh", "bash --posix") if shutil.which(shell.split()[0])
]
JOB = "1769781953720134401"
CONTENT = bytes(range(256)) * 4000

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    running = Server(configured(folder, models_dir, server__auth_token="secret"))
    running.start()
    yield running
    running.stop()


def environment(url: str, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "UPSCALED_URL": url, "UPSCALED_TOKEN": "secret", **more}


def upscale(
    shell: str, url: str, *arguments: str | Path, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*shell.split(), str(SCRIPT), *map(str, arguments)],
        env=environment(url, **more), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_a_picture_goes_round(shell: str, server: Server, tmp_path: Path) -> None:
    source, target = tmp_path / 'a "b", c;d.png', tmp_path / "the result.png"
    source.write_bytes(a_picture())
    url = f"http://127.0.0.1:{server.port}"
    fields = ("scale=2", f"model_name={FAST_MODEL}", "client_ref=@/etc/passwd <x>")
    done = upscale(shell, url, source, target, *fields)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(target) as result:
        assert result.size == (48, 32)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, target.name]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("in.png",), 2, "give a picture and a name for the result"),
        (("none.png", "out.png"), 2, "there is no file none.png"),
        (("in.png", "out.png", "2"), 2, "2 is no field"),
        (("in.png", "out.png", "scale=9"), 3, "The field scale is '9'; it must be 2, 3 or 4."),
        (("text.png", "out.png"), 3, "(415): The file is not a picture of a known format"),
    ],
)
def test_what_is_wrong_is_told(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.png").write_bytes(a_picture())
    Path("text.png").write_text("no picture")
    done = upscale(SHELLS[0], f"http://127.0.0.1:{server.port}", *arguments)
    assert done.returncode == status
    assert sentence in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "text.png"]


def test_a_wrong_token_and_a_missing_server_are_told(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    source.write_bytes(a_picture())
    url = f"http://127.0.0.1:{server.port}"
    done = upscale(SHELLS[0], url, source, tmp_path / "out.png", UPSCALED_TOKEN="wrong")
    assert done.returncode == 3
    assert "token" in done.stderr
    gone = upscale(SHELLS[0], "http://127.0.0.1:9", source, tmp_path / "o", UPSCALED_SECONDS="1")
    assert gone.returncode == 3


class BadDays:
    """A server that is busy at first, forgets to answer, and breaks downloads off."""

    def __init__(self, fate: str = "completed") -> None:
        self.keys: list[str] = []
        self.ranges: list[str | None] = []
        self.cancelled = asyncio.Event()
        self.asked = 0
        self.fate = fate
        app = web.Application()
        app.router.add_post("/api/v1/upscale", self.submit)
        app.router.add_get("/api/v1/status/{id}", self.status)
        app.router.add_get("/api/v1/download/{id}", self.download)
        app.router.add_post("/api/v1/cancel/{id}", self.cancel)
        self.server = TestServer(app)

    async def submit(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        assert request.headers["Authorization"] == "Bearer secret"
        await request.read()
        if len(self.keys) == 1:
            content = {"success": False, "error": "The queue is full.", "code": "queue_full"}
            return web.json_response(content, status=503, headers={"Retry-After": "1"})
        if len(self.keys) == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text=f'{{"success":true,"job_id":"{JOB}"}}', status=202)

    async def status(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked == 1:
            assert request.transport is not None
            request.transport.abort()
        state = "processing" if self.asked < 3 or self.fate == "never" else self.fate
        more = ',"error":"The picture is bad."' if state == "failed" else ""
        return web.Response(text=f'{{"job_id":"{JOB}","status":"{state}","progress":7{more}}}')

    async def download(self, request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
        answer = web.StreamResponse(
            status=206 if wanted else 200,
            headers={
                "Content-Length": str(len(CONTENT) - start),
                "Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}",
                "Repr-Digest": f"sha-256=:{digest}:",
            },
        )
        await answer.prepare(request)
        await answer.write(CONTENT[start : start + 400_000])
        if start + 400_000 < len(CONTENT):
            assert request.transport is not None
            request.transport.close()
        return answer

    async def cancel(self, _request: web.Request) -> web.Response:
        self.cancelled.set()
        return web.json_response({"success": True})


async def run_against(days: BadDays, folder: Path, **more: str) -> tuple[int | None, str]:
    """Run the script with a bad server; return its status and what it complained."""
    (folder / "in.png").write_bytes(b"picture")
    async with days.server, child_process(
        *SHELLS[0].split(), str(SCRIPT), "in.png", "out.png", cwd=folder,
        env=environment(str(days.server.make_url("")), **more), stderr=asyncio.subprocess.PIPE,
    ) as process:  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, errors.decode()


async def test_it_waits_repeats_and_continues(tmp_path: Path) -> None:
    days = BadDays()
    assert await run_against(days, tmp_path) == (0, "")
    assert (tmp_path / "out.png").read_bytes() == CONTENT
    assert len(days.keys) == 3
    assert len(set(days.keys)) == 1
    assert days.ranges[0] is None
    assert len(days.ranges) >= 3
    assert all(days.ranges[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


async def test_a_failed_job_is_told_and_not_cancelled(tmp_path: Path) -> None:
    days = BadDays("failed")
    status, errors = await run_against(days, tmp_path)
    assert (status, errors) == (1, "upscale.sh: in.png: The picture is bad.\n")
    assert not days.cancelled.is_set()


async def test_a_job_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    days = BadDays("never")
    status, errors = await run_against(days, tmp_path, UPSCALED_SECONDS="3")
    assert status == 1
    assert "not done in time; the job is cancelled" in errors
    assert days.cancelled.is_set()
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]
