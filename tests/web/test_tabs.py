"""Several tabs of the page in one browser: they agree, and leave each other connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from testkit.running import Api, Server
from testkit.web_page import SLOW_LABEL, WebPage, web_page
from upscaled.callers import hash_of

pytestmark = pytest.mark.asyncio(loop_scope="package")

HIDE = """() => {
  Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
SHOW = """() => {
  delete document.visibilityState;
  document.dispatchEvent(new Event("visibilitychange"));
}"""
CONNECTIONS = 6
"""That a browser opens to one server, for all its tabs."""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


@asynccontextmanager
async def two_tabs(browser: Browser, server: Server) -> AsyncIterator[tuple[WebPage, WebPage]]:
    """Open the page twice in one browser, which lists no jobs."""
    async with web_page(browser, root(server)) as first:
        second = WebPage(await first.page.context.new_page(), first.url)
        await first.open()
        await second.open()
        yield first, second
        assert not second.problems


@pytest.fixture
def unlisted(serve: Callable[..., Server]) -> Server:
    """A server that lists no jobs, so that browsers remember their own."""
    return serve(features__job_lists="false")


async def reloaded(web: WebPage, *names: str) -> None:
    """Check that exactly these pictures are known after a reload."""
    await web.page.reload()
    await web.ready()
    for name in names:
        await expect(web.row(name)).to_have_count(1)
    await expect(web.page.locator(".row")).to_have_count(len(names))


async def test_two_tabs_know_the_same_jobs(
    browser: Browser, unlisted: Server, photo: Path, tmp_path: Path
) -> None:
    other = photo.rename(tmp_path / "other.png")
    photo.write_bytes(other.read_bytes())
    async with two_tabs(browser, unlisted) as (first, second):
        await first.send(photo)
        await expect(second.row("coffee.png", "completed")).to_have_count(1)
        await second.send(other)
        await expect(first.row("other.png", "completed")).to_have_count(1)
        await reloaded(first, "coffee.png", "other.png")
        await reloaded(second, "coffee.png", "other.png")


async def test_two_tabs_that_send_at_the_same_time_lose_no_job(
    browser: Browser, unlisted: Server, photo: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        path.write_bytes(photo.read_bytes())
    async with two_tabs(browser, unlisted) as (first, second):
        await asyncio.gather(first.choose(*paths[:3]), second.choose(*paths[3:]))
        await asyncio.gather(*(web.page.locator("#send").click() for web in (first, second)))
        for web in (first, second):
            await expect(web.page.locator("[data-state=completed]")).to_have_count(6)
        await reloaded(first, *(path.name for path in paths))


@pytest.mark.parametrize("listed", ["true", "false"])
async def test_a_job_deleted_in_one_tab_is_gone_in_the_other(
    browser: Browser, serve: Callable[..., Server], large_photo: Path, listed: str
) -> None:
    async with two_tabs(browser, serve(features__job_lists=listed)) as (first, second):
        await first.send(large_photo, model=SLOW_LABEL, scale=4)
        await first.row("large.jpg").get_by_role("button", name="Cancel").click()
        await expect(second.row("large.jpg", "cancelled")).to_have_count(1)
        await first.row("large.jpg", "cancelled").get_by_role("button", name="Delete").click()
        await expect(second.row("large.jpg")).to_have_count(0)
        await reloaded(second)


async def test_a_result_saved_in_one_tab_is_gone_in_the_other(
    browser: Browser, unlisted: Server, photo: Path
) -> None:
    """No event tells it where the server lists no jobs."""
    async with two_tabs(browser, unlisted) as (first, second):
        await first.send(photo)
        await second.row("coffee.png", "completed").wait_for()
        async with first.page.expect_download():
            await first.row("coffee.png").get_by_role("button", name="Download").click()
        for web in (first, second):
            await web.row("coffee.png", "gone").wait_for()


async def test_a_list_that_is_not_read_to_its_end_is_not_forgotten(
    browser: Browser, unlisted: Server, photo: Path, tmp_path: Path
) -> None:
    """The first job is gone, and the page is closed before it has asked for the second."""
    other = photo.rename(tmp_path / "other.png")
    photo.write_bytes(other.read_bytes())
    async with web_page(browser, root(unlisted)) as web, Api(unlisted) as api:
        await web.open()
        await web.send(photo)
        await web.row("coffee.png", "completed").wait_for()
        await web.send(other)
        await web.row("other.png", "completed").wait_for()
        newest = await web.row("other.png").get_attribute("data-key")
        await api.call("DELETE", f"/jobs/{newest}")
        held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()

        def hold(route: Route) -> None:
            if route.request.url.endswith(str(newest)):
                asyncio.ensure_future(route.continue_())  # noqa: RUF006 - ends with the page
            else:
                held.set_result(route)

        await web.page.route("**/status/*", hold)
        await web.page.reload()
        await held
        await web.page.unroute("**/status/*")
        await reloaded(web, "coffee.png")


async def test_a_tab_with_another_token_does_not_forget_the_jobs_of_the_first(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    tokens = f"anna={hash_of('annas')},bert={hash_of('berts')}"
    server = serve(features__job_lists="false", server__tokens=tokens)
    async with web_page(browser, root(server)) as first:
        second = WebPage(await first.page.context.new_page(), first.url)
        for web, token in ((first, "annas"), (second, "berts")):
            await web.page.goto(web.url)
            await web.page.get_by_label("Token", exact=True).fill(token)
            await web.page.keyboard.press("Enter")
            await web.ready()
        await first.send(photo)
        await first.row("coffee.png", "completed").wait_for()
        await second.page.reload()
        await second.ready()
        await expect(second.page.locator("#empty")).to_be_visible()
        await reloaded(first, "coffee.png")


async def test_hidden_tabs_leave_the_browsers_connections_to_the_one_in_view(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    server = serve()
    async with web_page(browser, root(server)) as first, AsyncExitStack() as tabs:
        await first.page.clock.install()
        await first.open()
        await parked(first.page)
        for _ in range(CONNECTIONS - 1):
            page = await first.page.context.new_page()
            tabs.push_async_callback(page.close)
            await page.clock.install()
            await WebPage(page, first.url).open()
            await parked(page)
        seen = WebPage(await first.page.context.new_page(), first.url)
        await seen.open()
        await seen.send(photo)
        await seen.row("coffee.png", "completed").wait_for()
        await expect(first.row("coffee.png")).to_have_count(0)
        await first.page.evaluate(SHOW)
        await first.row("coffee.png", "completed").wait_for()
        await expect(first.page.locator("#notices .notice")).to_have_count(0)


async def parked(page: Page) -> None:
    """Hide a tab, and wait until it has given its connection back."""
    await page.locator("#empty, .row").first.wait_for()
    async with page.expect_event("requestfailed", lambda one: "/events?" in one.url):
        await page.evaluate(HIDE)
        await page.clock.fast_forward(20_000)
