"""The page under other hands: two fingers, a broken line, an old browser, a long German word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, CDPSession, Route, expect

from testkit.hurdles import hurdles
from testkit.running import Server
from testkit.web_page import web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


async def touch(session: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    """Put fingers down (``touchStart``), move them or lift them."""
    fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    await session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})


async def test_two_fingers_zoom_the_picture_and_one_moves_it(
    browser: Browser, server: Server, photo: Path
) -> None:
    async with web_page(browser, root(server), width=360, height=780, touch=True) as web:
        await web.open()
        await web.send(photo)
        row = web.row("coffee.png", "completed").first
        await row.get_by_role("button", name="Compare").click()
        board = web.page.locator("canvas.board")
        await expect(board).to_have_attribute("aria-busy", "false")
        area = await board.bounding_box()
        assert area is not None
        x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
        zoom = web.page.locator(".zoom")
        before = await percent(zoom.inner_text)
        session = await web.page.context.new_cdp_session(web.page)
        await touch(session, "touchStart", (x - 40, y), (x + 40, y))
        for spread in (60, 80, 100, 120):
            await touch(session, "touchMove", (x - spread, y), (x + spread, y))
        await touch(session, "touchEnd")
        await expect(zoom).not_to_have_text(f"{before}%")
        after = await percent(zoom.inner_text)
        assert after == pytest.approx(3 * before, rel=0.1)
        await expect(board).to_have_attribute("aria-busy", "false")
        still = await board.screenshot()
        await web.shot("viewer-pinched")
        # Away from the line between before and after, which a finger there would move.
        await touch(session, "touchStart", (x - 100, y))
        for step in (20, 40, 60):
            await touch(session, "touchMove", (x - 100, y + step))
        await touch(session, "touchEnd")
        await expect(board).to_have_attribute("aria-busy", "false")
        assert await board.screenshot() != still
        assert await percent(zoom.inner_text) == after


async def percent(text: Callable[[], object]) -> int:
    """Return the number of a text such as 1,600%."""
    return int(str(await text()).rstrip("%").replace(",", ""))  # type: ignore[misc]


@pytest.mark.parametrize(("seconds", "side"), [(1000, 64), (400, 100), (10, 256)])
async def test_the_first_frame_is_small_where_models_are_slow(
    browser: Browser, server: Server, photo: Path, seconds: float, side: int
) -> None:
    """A preview takes seconds on every machine; the picture is 300 pixels wide and 200 high."""

    async def with_speed(route: Route) -> None:
        answer = await route.fetch()
        told = await answer.json()
        speed = {"scale": 4, "seconds_per_megapixel": seconds, "measured": True}
        told["models"][-1]["speed"] = [speed]
        for model in told["models"][:-1]:
            model["speed"] = []
        await route.fulfill(response=answer, json=told)

    async with web_page(browser, root(server)) as web:
        await web.page.route("**/models", with_speed)
        await web.open()
        await web.choose(photo)
        frame = await web.page.locator(".crop-frame").bounding_box()
        whole = await web.page.locator(".crop-holder").bounding_box()
        assert frame is not None
        assert whole is not None
        assert frame["width"] / whole["width"] * 300 == pytest.approx(side, abs=1)


async def test_a_browser_without_modules_is_told_what_it_lacks(
    browser: Browser, server: Server
) -> None:
    async def as_old(route: Route) -> None:
        """Serve the page as a browser reads it that knows scripts but no modules."""
        answer = await route.fetch()
        text = (await answer.text()).replace('type="module"', 'type="unknown"')
        await route.fulfill(response=answer, body=text.replace("<script nomodule", "<script"))

    async with web_page(browser, root(server), width=360) as web:
        await web.page.route(root(server), as_old)
        await web.page.goto(root(server))
        await expect(web.page.locator("#old")).to_be_visible()
        await expect(web.page.locator("#old")).to_contain_text("JavaScript modules")
        await web.shot("old-browser")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_german_fits_a_phone(
    browser: Browser, server: Server, photo: Path, theme: str
) -> None:
    wide = "document.documentElement.scrollWidth"
    async with web_page(
        browser, root(server), width=360, height=780, theme=theme, language="de-DE", touch=True
    ) as web:
        await web.open()
        await expect(web.page.locator("#options-title")).to_have_text("Vergrößern mit")
        assert await web.page.evaluate(wide) <= 360
        await web.choose(photo, model="animevideov3")
        await web.page.locator("#more summary").click()
        assert await web.page.evaluate(wide) <= 360
        await web.shot(f"german-chosen-{theme}-360", full=True)
        await web.page.locator("#send").click()
        await web.row("coffee.png", "completed").first.wait_for()
        assert await web.page.evaluate(wide) <= 360
        assert await hurdles(web.page) == []
        await web.shot(f"german-done-{theme}-360", full=True)
        await web.row("coffee.png", "completed").first.locator(".act-compare").click()
        await expect(web.page.locator("canvas.board")).to_have_attribute("aria-busy", "false")
        assert await hurdles(web.page) == []
        outside = await web.page.evaluate(
            "[...document.querySelectorAll('dialog *')].filter((one) => one.checkVisibility() &&"
            " !one.classList.contains('unseen') && one.getBoundingClientRect().right > 361)"
            ".map((one) => one.outerHTML.slice(0, 100))"
        )
        assert outside == []
        await web.shot(f"german-viewer-{theme}-360")


async def test_a_wrong_size_that_nobody_sees_does_not_keep_pictures_from_being_sent(
    browser: Browser, server: Server, photo: Path
) -> None:
    async with web_page(browser, root(server)) as web:
        await web.open()
        await web.page.locator("#scales label", has_text="Exact").click()
        await web.page.locator("#width").fill("-1.5")
        await web.send(photo)
        await web.row("coffee.png", "completed").first.wait_for()


async def test_a_dialog_closes_with_a_click_beside_it_and_not_within(
    browser: Browser, server: Server, photo: Path
) -> None:
    async with web_page(browser, root(server)) as web:
        await web.open()
        await web.send(photo)
        await web.row("coffee.png", "completed").first.locator(".act-details").click()
        dialog = web.page.locator("dialog")
        await dialog.locator("dl").wait_for()
        await dialog.click(position={"x": 4, "y": 4})
        await expect(dialog).to_be_visible()
        await web.page.mouse.click(4, 4)
        await expect(dialog).to_have_count(0)


@pytest.mark.parametrize(("language", "halves"), [("en-GB", False), ("en-US", True)])
async def test_times_are_written_as_in_the_users_region(
    browser: Browser, server: Server, photo: Path, language: str, halves: bool
) -> None:
    async with web_page(browser, root(server), language=language) as web:
        await web.open()
        await web.send(photo)
        row = web.row("coffee.png", "completed").first
        await expect(row).to_contain_text("kept until")
        assert bool(re.search("[AP]M", await row.inner_text())) is halves
