"""The page where the browser or the line fails it: no storage, a silent line, a token that ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from testkit.cuttable_link import CuttableLink
from testkit.running import FAST_MODEL, Api, Server
from testkit.web_page import SLOW_LABEL, WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

NO_STORAGE = """
for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("", "SecurityError"); } });
}
window.BroadcastChannel = class { constructor() { throw new DOMException("", "SecurityError"); } };
"""
"""What browsers do whose users forbid sites to keep data."""
WATCH_NOTICES = """() => {
  window.noticed = 0;
  new MutationObserver((changes) => {
    for (const change of changes) noticed += change.addedNodes.length;
  }).observe(document.getElementById("notices"), { childList: true });
}"""
FOCUS = """() => {
  const place = document.activeElement.closest("button, .queue");
  return place?.closest(".row")?.dataset.key ?? place?.className ?? "lost";
}"""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize("listed", ["true", "false"])
async def test_the_page_works_where_the_browser_keeps_nothing(
    browser: Browser, serve: Callable[..., Server], photo: Path, listed: str
) -> None:
    server = serve(features__job_lists=listed, server__auth_token="a token")
    async with web_page(browser, root(server)) as web:
        await web.page.add_init_script(NO_STORAGE)
        await web.page.goto(web.url)
        await enter(web.page, "a token")
        await web.ready()
        await web.page.locator("#theme-button").click()
        await web.page.select_option("#language", "de")
        await expect(web.page.locator("#options-title")).to_have_text("Vergrößern mit")
        await web.send(photo)
        await web.row("coffee.png", "completed").wait_for()


async def test_a_token_may_have_any_characters(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    async with web_page(browser, root(serve(server__auth_token="Schlüssel für 5 €"))) as web:
        await web.page.goto(web.url)
        await enter(web.page, "Schlüssel für 6 €")
        await expect(web.page.get_by_role("alert")).to_have_text("The token is not the right one.")
        await enter(web.page, "Schlüssel für 5 €")
        await web.ready()
        await web.send(photo)
        await web.row("coffee.png", "completed").wait_for()


async def enter(page: Page, token: str) -> None:
    """Fill the dialog that asks for a token."""
    await page.get_by_label("Token", exact=True).fill(token)
    await page.keyboard.press("Enter")


async def test_a_token_that_ends_is_asked_for_and_nothing_is_lost(
    browser: Browser, serve: Callable[..., Server], photo: Path, large_photo: Path
) -> None:
    """The line breaks, and the token is no longer right when the page comes back."""
    async with web_page(browser, root(serve(server__auth_token="right"))) as web:
        await web.page.goto(web.url)
        await enter(web.page, "right")
        await web.ready()
        await web.send(large_photo, model=SLOW_LABEL, scale=4)
        await web.row("large.jpg", "processing").wait_for()
        await web.choose(photo)
        await web.page.evaluate("sessionStorage.setItem('upscaled.token', 'was right')")
        await web.page.locator("#send").click()
        await web.row("coffee.png", "paused").wait_for()
        await enter(web.page, "right")
        await web.row("coffee.png").first.wait_for()
        await web.row("large.jpg", "processing").wait_for()
        await web.row("large.jpg").get_by_role("button", name="Cancel").click()
        await web.row("large.jpg", "cancelled").wait_for()
        await web.row("coffee.png", "completed").wait_for()


@asynccontextmanager
async def on_a_silent_line(
    browser: Browser, server: Server
) -> AsyncIterator[tuple[WebPage, CuttableLink]]:
    """Open the page over a line that can fall silent, without an error at either end."""
    line = CuttableLink(server.port)
    await line.start()
    try:
        async with web_page(browser, f"http://127.0.0.1:{line.port}/") as web:
            await web.page.clock.install()
            await web.open()
            await web.page.locator("#empty").wait_for()
            yield web, line
    finally:
        await line.close()


async def test_a_line_that_falls_silent_is_noticed_and_told_once(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    """Also while the page connects again, which nobody answers either."""
    server = serve()
    async with on_a_silent_line(browser, server) as (web, line), Api(server) as api:
        await web.page.evaluate(WATCH_NOTICES)
        notice = web.page.locator("#notices", has_text="does not answer")
        line.cut()
        for _ in range(5):  # the first finds the dead connection, the others those that replace it
            async with web.page.expect_request("**/events?*", timeout=30_000):
                await web.page.clock.fast_forward(51_000)
            await notice.wait_for()
        assert await web.page.evaluate("noticed") == 1
        await api.completed(photo.read_bytes(), filename="meanwhile.png")
        line.heal()
        await web.row("meanwhile.png", "completed").wait_for()
        await expect(web.page.locator("#notices .notice")).to_have_count(0)


async def test_an_upload_on_a_line_that_falls_silent_is_sent_again(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    async with on_a_silent_line(browser, serve()) as (web, line):
        await web.choose(photo)
        line.cut()
        async with web.page.expect_request("**/api/v1/upscale"):
            await web.page.locator("#send").click()
        async with web.page.expect_request("**/api/v1/upscale"):
            await web.page.clock.fast_forward(120_000)
        line.heal()
        await web.row("coffee.png", "completed").wait_for()


async def test_a_page_that_lost_its_connections_while_it_was_stored_connects_again(
    browser: Browser, serve: Callable[..., Server]
) -> None:
    """A browser keeps pages for its back button, without their connections."""
    async with web_page(browser, root(serve())) as web:
        await web.open()
        await web.page.locator("#empty").wait_for()
        await web.page.evaluate(WATCH_NOTICES)
        async with web.page.expect_response("**/jobs?limit=200"):
            await web.page.evaluate(
                "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"
            )
        assert await web.page.evaluate("noticed") == 0  # nothing was lost


async def test_a_viewer_whose_job_is_deleted_says_so(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    server = serve()
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.open()
        await web.send(large_photo)
        row = await web.completed("large.jpg")
        await row.get_by_role("button", name="Compare").click()
        board = web.page.locator("canvas.board")
        await expect(board).to_have_attribute("aria-busy", "false")
        await api.call("DELETE", f"/jobs/{await row.get_attribute('data-key')}")
        dialog = web.page.get_by_role("dialog")
        await dialog.get_by_role("button", name="100%").click()
        await expect(dialog.locator(".view-note")).to_contain_text("There is no job")
        await expect(board).to_have_attribute("aria-busy", "false")
        await dialog.get_by_role("button", name="Download").click()
        await expect(dialog.locator(".toast")).to_contain_text("There is no job")
        await web.shot("viewer-deleted")


async def test_the_focus_stays_in_the_list_when_its_row_goes(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    async with web_page(browser, root(serve())) as web:
        await web.open()
        for _ in range(3):
            await web.send(large_photo, model=SLOW_LABEL, scale=4)
            await web.page.locator("[data-state=processing], [data-state=queued]").first.wait_for()
            cancel = web.page.get_by_role("button", name="Cancel: ")
            await cancel.focus()
            await web.page.keyboard.press("Enter")
            await expect(cancel).to_have_count(0)
        await expect(web.page.locator("#announcer")).to_have_text("large.jpg is cancelled.")
        keys = [
            await row.get_attribute("data-key")
            for row in await web.page.locator("[data-state=cancelled]").all()
        ]
        for left, expected in ((2, keys[2]), (1, keys[0])):
            await web.page.locator(".act-delete").nth(1).focus()
            await web.page.keyboard.press("Enter")
            await expect(web.page.locator(".row")).to_have_count(left)
            assert await web.page.evaluate(FOCUS) == expected
        await web.page.locator("#clear").focus()
        await web.page.keyboard.press("Enter")
        await expect(web.page.locator(".row")).to_have_count(0)
        assert await web.page.evaluate(FOCUS) == "queue"


async def test_the_part_to_compare_is_chosen_and_looked_at_by_keyboard(
    web: WebPage, photo: Path
) -> None:
    page = web.page
    await web.choose(photo)
    frame = page.locator(".crop-frame")
    await frame.focus()
    before = await frame.bounding_box()
    for _ in range(3):
        await page.keyboard.press("-")
    smaller = await frame.bounding_box()
    await page.keyboard.press("Shift++")
    larger = await frame.bounding_box()
    assert before
    assert smaller
    assert larger
    assert smaller["width"] < before["width"]
    assert larger["width"] > smaller["width"]
    await page.locator("#preview").focus()
    await page.keyboard.press("Enter")
    window = page.get_by_role("group", name=f"Part of the picture: {FAST_MODEL}")
    await window.locator("img[src]").wait_for()
    picture = window.locator("img")
    await window.focus()
    await page.keyboard.press("+")
    await expect(picture).to_have_css("scale", "2")
    still = await picture.evaluate("(one) => getComputedStyle(one).translate")
    await page.keyboard.press("ArrowRight")
    assert await picture.evaluate("(one) => getComputedStyle(one).translate") != still
    await page.get_by_role("button", name="Zoom in").press("Enter")
    await expect(picture).to_have_css("scale", "4")
    await web.shot("preview-zoomed")
    await page.keyboard.press("Escape")


async def test_a_viewer_whose_token_ends_goes_on_with_another(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    async with web_page(browser, root(serve(server__auth_token="right"))) as web:
        await web.page.goto(web.url)
        await enter(web.page, "right")
        await web.ready()
        await web.send(large_photo)
        row = await web.completed("large.jpg")
        await row.get_by_role("button", name="Compare").click()
        board = web.page.locator("canvas.board")
        await expect(board).to_have_attribute("aria-busy", "false")
        await web.page.evaluate("sessionStorage.setItem('upscaled.token', 'was right')")
        viewer = web.page.locator("dialog.viewer")
        note = viewer.locator(".view-note")
        await viewer.get_by_role("button", name="100%").click()
        await web.page.get_by_role("button", name="Not now").click()
        await expect(note).to_have_text("The token is not the right one.")
        await viewer.get_by_role("button", name="Download").click()
        await enter(web.page, "right")
        await expect(note).to_be_empty()
        await expect(board).to_have_attribute("aria-busy", "false")


async def test_a_page_of_an_earlier_version_says_that_it_must_be_loaded_again(
    web: WebPage, photo: Path
) -> None:
    """The server was updated: parts that the page has not loaded yet have other addresses."""
    await web.page.route("**/viewer.js", lambda route: route.fulfill(status=404))
    await web.send(photo)
    await web.row("coffee.png", "completed").first.locator(".act-compare").click()
    await expect(web.page.locator(".toast")).to_contain_text("newer version of this page")
