"""The page for everybody: no hurdles, no shift of the layout, and thousands of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, FileChooser, expect

from testkit.hurdles import hurdles
from testkit.job_records import multiply_job
from testkit.running import Api, Server
from testkit.web_page import WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

THEMES = ("light", "dark")
WIDTHS = (1440, 360)
JOBS = 2000
SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
SCROLL = """async () => {
  const times = [];
  const step = document.documentElement.scrollHeight / 60;
  for (let at = 0; at <= 60; at += 1) {
    const before = performance.now();
    scrollTo(0, at * step);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - before);
  }
  return times.sort((a, b) => a - b);
}"""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
async def test_axe_finds_nothing_serious(
    browser: Browser, server: Server, photo: Path, theme: str, width: int
) -> None:
    async with web_page(browser, root(server), width=width, height=780, theme=theme) as web:
        await web.open()
        assert await hurdles(web.page) == []
        await web.shot(f"empty-{theme}-{width}")
        await web.choose(photo)
        assert await hurdles(web.page) == []
        await web.shot(f"chosen-{theme}-{width}", full=True)
        await web.page.locator("#send").click()
        await web.row("coffee.png", "completed").first.wait_for()
        assert await hurdles(web.page) == []
        await web.shot(f"done-{theme}-{width}", full=True)
        await web.row("coffee.png", "completed").first.locator(".act-details").click()
        await web.page.locator("dialog dl").wait_for()
        assert await hurdles(web.page) == []
        await web.shot(f"details-{theme}-{width}")
        assert await web.page.evaluate("document.documentElement.scrollWidth") <= width


async def test_the_layout_does_not_shift_while_the_page_loads(
    browser: Browser, server: Server
) -> None:
    for width in WIDTHS:
        async with web_page(browser, root(server), width=width) as web:
            await web.page.add_init_script(SHIFTS)
            await web.open()
            await web.page.locator("#empty, .row").first.wait_for()
            await web.page.evaluate("new Promise((done) => setTimeout(done, 500))")
            assert await web.page.evaluate("window.shifts") < 0.01, width


async def test_the_whole_way_goes_by_keyboard(web: WebPage, photo: Path) -> None:
    page = web.page
    # Early: the browser learns in the background that dialogs are to be reported.
    choosing: asyncio.Future[FileChooser] = asyncio.get_running_loop().create_future()
    page.once("filechooser", lambda chooser: choosing.set_result(chooser))  # noqa: PLW0108 - no built-in works
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.locator("#choose").focus()
    await page.keyboard.press("Enter")
    await (await asyncio.wait_for(choosing, 60)).set_files(photo)
    await page.locator("#strip .strip-pick").first.wait_for()
    await page.locator("input[name=model]:checked").focus()
    while not await page.locator("input[value=realesr-animevideov3]").is_checked():
        await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("input[name=scale]:checked")).to_be_focused()
    await page.keyboard.press("Enter")
    row = web.row("coffee.png", "completed").first
    await row.wait_for()
    await expect(page.locator("#announcer")).to_contain_text("coffee.png is done.")
    async with page.expect_download():
        await row.get_by_role("button", name="Download").focus()
        await page.keyboard.press("Enter")


async def test_two_thousand_jobs_scroll_smoothly(
    browser: Browser, serve: Callable[..., Server]
) -> None:
    server = serve()
    async with Api(server) as api:
        await api.completed(filename="many.png")
    multiply_job(server.data_dir, JOBS)
    async with web_page(browser, root(server)) as web:
        await web.open()
        await web.row("many.png").first.wait_for()
        bottom = "scrollTo(0, document.documentElement.scrollHeight)"
        while await web.page.evaluate("document.querySelector('#rows').offsetHeight") < JOBS * 84:
            await web.page.evaluate(bottom)
            await web.page.evaluate("new Promise(requestAnimationFrame)")
        times = await web.page.evaluate(SCROLL)
        rows = await web.page.locator(".row").count()
        memory = await web.page.evaluate("performance.memory.usedJSHeapSize")
        assert rows < 60
        assert times[30] < 100
        assert memory < 60e6
