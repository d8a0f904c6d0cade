"""Large pictures on a bad line: the upload goes on by itself where it stopped."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, Request, expect

from testkit.relay import Relay, relay
from testkit.running import Api, Server
from testkit.web_page import WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

WIDTH, HEIGHT = 1700, 1300
PIECE = 2 << 20
"""Bytes that the page sends with one request."""


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A picture of more than 6 MB, so that the page sends it as an upload to continue."""
    path = tmp_path / "noise.png"
    pixels = random.Random(18).randbytes(WIDTH * HEIGHT * 3)
    Image.frombytes("RGB", (WIDTH, HEIGHT), pixels).save(path, compress_level=0)
    return path


@asynccontextmanager
async def on_a_line(
    browser: Browser, server: Server
) -> AsyncIterator[tuple[WebPage, Relay, list[Request]]]:
    """Open the page over a relay; the list gets the requests that send bytes of uploads."""
    async with (
        relay(server.port) as line,
        web_page(browser, f"http://127.0.0.1:{line.port}/") as web,
    ):
        patches: list[Request] = []
        web.page.on("request", lambda one: patches.append(one) if one.method == "PATCH" else None)
        await web.open()
        yield web, line, patches


async def arrived(api: Api, picture: Path) -> None:
    """Check that the server has one job, with this very picture."""
    (job,) = (await api.get("/jobs")).json["jobs"]
    assert job["filename"] == "noise.png"
    folder = api.server.data_dir / "jobs" / job["job_id"]
    assert _digest(folder / "upload") == _digest(picture)
    await api.post(f"/cancel/{job['job_id']}")
    await api.server.ended(job["job_id"])
    assert not api.server.uploads()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def broken_half_way(web: WebPage, line: Relay, noise: Path) -> None:
    """Send a picture, and take the network away when half of it is there."""
    line.most = line.passed + noise.stat().st_size // 2
    await web.send(noise)
    await line.reached.wait()
    row = web.row("noise.png", "sending").first
    await expect(row.locator("progress")).to_be_visible()
    await web.page.context.set_offline(True)
    line.break_down()
    await web.row("noise.png", "paused").first.wait_for()


async def back_again(web: WebPage, line: Relay) -> None:
    """Give the network back, and wait until the picture is there."""
    line.go_on()
    await web.page.context.set_offline(False)
    await web.page.locator("[data-state=queued], [data-state=processing]").first.wait_for()


async def test_an_upload_goes_on_where_the_line_broke(
    browser: Browser, serve: Callable[..., Server], noise: Path
) -> None:
    server = serve()
    size = noise.stat().st_size
    async with on_a_line(browser, server) as (web, line, patches), Api(server) as api:
        line.cuts = True
        line.most = line.passed + size // 2
        await web.send(noise)
        await line.reached.wait()
        await web.page.locator("[data-state=queued], [data-state=processing]").first.wait_for()
        offsets = [int(one.headers["upload-offset"]) for one in patches]
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        assert offsets.count(0) == 1
        assert size // 4 < offsets[-1] < size
        # The piece that broke is sent again, perhaps once by the browser itself and once by us.
        assert line.passed < size + 3 * PIECE
        await arrived(api, noise)


async def test_an_upload_goes_on_after_the_network_was_away(
    browser: Browser, serve: Callable[..., Server], noise: Path
) -> None:
    server = serve()
    size = noise.stat().st_size
    async with on_a_line(browser, server) as (web, line, patches), Api(server) as api:
        await broken_half_way(web, line, noise)
        await expect(web.row("noise.png").first).to_contain_text("The connection was lost.")
        await web.shot("upload-lost")
        await back_again(web, line)
        assert int(patches[-1].headers["upload-offset"]) > size // 4
        await arrived(api, noise)


async def test_a_server_that_forgot_an_upload_gets_it_from_the_start(
    browser: Browser, serve: Callable[..., Server], noise: Path
) -> None:
    server = serve()
    async with on_a_line(browser, server) as (web, line, patches), Api(server) as api:
        await broken_half_way(web, line, noise)
        address = patches[-1].url.rpartition("/api/v1")[2]
        assert (await api.call("DELETE", address)).status == 204  # as a restart does
        await back_again(web, line)
        assert patches[-1].url != patches[0].url
        await arrived(api, noise)


async def test_a_large_picture_goes_in_one_piece_where_a_proxy_stops_pieces(
    browser: Browser, serve: Callable[..., Server], noise: Path
) -> None:
    server = serve()
    async with on_a_line(browser, server) as (web, _, _patches), Api(server) as api:
        await web.page.route(
            "**/uploads?*", lambda route: route.fulfill(status=405, body="<html>Not allowed</html>")
        )
        await web.send(noise)
        await web.page.locator("[data-state=queued], [data-state=processing]").first.wait_for()
        await arrived(api, noise)
