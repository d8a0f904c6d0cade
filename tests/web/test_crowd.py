"""Very many pictures and jobs: the page asks and sends no more than it must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, Request, expect

from testkit.relay import relay
from testkit.running import Api, Server
from testkit.web_page import WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

WAITING = 260
"""More than the list gives on one page."""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


def requests(web: WebPage, ending: str) -> list[Request]:
    """Return a list that every request whose address holds ``ending`` is added to."""
    found: list[Request] = []
    web.page.on("request", lambda one: found.append(one) if ending in one.url else None)
    return found


async def test_waiting_pictures_are_not_sent_while_the_queue_is_full(
    browser: Browser, serve: Callable[..., Server], large_photo: Path, photo: Path, tmp_path: Path
) -> None:
    server = serve(limits__max_queue_size="1", limits__max_concurrent_jobs="1")
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for path in paths:
        path.write_bytes(photo.read_bytes())
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.open()
        picture, slow = large_photo.read_bytes(), []
        for scale in ("3", "4"):
            slow.append(await api.accepted(picture, model_name="realesrgan-x4plus", scale=scale))
            await web.page.locator("[data-state=processing]").wait_for()
        sent = requests(web, "/upscale")
        await web.send(*paths)
        await expect(web.page.locator("[data-state=paused]")).to_have_count(2)
        await expect(web.page.locator("[data-state=waiting]")).to_have_count(6)
        assert len(sent) == 2
        # Those that were refused are taken away, and the ends of jobs make room for the others.
        for name in ("0.png", "1.png"):
            await web.row(name).get_by_role("button", name="Remove").click()
        for job_id in slow:
            await api.post(f"/cancel/{job_id}")
        await expect(web.page.locator("[data-state=completed]")).to_have_count(6)


async def test_hundreds_of_waiting_jobs_are_not_asked_for_one_by_one(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    server = serve(limits__max_queue_size=str(WAITING + 1), limits__max_concurrent_jobs="1")
    async with web_page(browser, root(server)) as web, Api(server) as api:
        picture = large_photo.read_bytes()
        slow = {"model_name": "realesrgan-x4plus", "scale": "4"}
        for _ in range(WAITING):
            await api.accepted(picture, **slow)
        await web.page.clock.install()
        asked = requests(web, "/status/")
        async with web.page.expect_response("**/jobs?limit=200"):
            await web.open()
        await expect(web.page.locator("#queue-hint")).to_have_text(f"{WAITING} in progress")
        await web.page.clock.fast_forward(5000)
        await web.page.evaluate("fetch('/')")  # after what the page asked before
        assert asked == []
        for job in (await api.get("/jobs?limit=200")).json["jobs"]:
            await api.post(f"/cancel/{job['job_id']}")


async def test_a_job_that_a_script_deleted_goes_when_the_line_is_back(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    server = serve()
    async with (
        relay(server.port) as line,
        web_page(browser, f"http://127.0.0.1:{line.port}/") as web,
        Api(server) as api,
    ):
        await web.open()
        await web.send(photo)
        await web.row("coffee.png", "completed").wait_for()
        job_id = await web.row("coffee.png").get_attribute("data-key")
        line.break_down()
        await web.page.locator("#notices .notice").wait_for()
        await api.call("DELETE", f"/jobs/{job_id}")
        line.go_on()
        await expect(web.row("coffee.png")).to_have_count(0)
