"""Previews, before and after, archives: what the page shows of pictures, with the real server."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image, ImageStat
from playwright.async_api import Browser, Page, expect

from testkit.browser import largest_tab
from testkit.paths import DATA
from testkit.running import Api, Server
from testkit.web_page import SLOW_LABEL, WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

MOST_MEMORY = 500e6
"""Bytes of a tab with a result of 100 megapixels."""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


async def drawn(page: Page) -> Image.Image:
    """Wait until no tile is missing; return what the board shows."""
    await page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    await expect(page.locator("canvas.board")).to_have_attribute(
        "aria-busy", "false", timeout=60_000
    )
    shot = await page.locator("canvas.board").screenshot()
    return Image.open(io.BytesIO(shot)).convert("RGB")


def brightness(picture: Image.Image) -> float:
    """Return the mean of the middle of a picture, 0 to 255."""
    middle = picture.crop((picture.width // 3, 100, 2 * picture.width // 3, picture.height - 100))
    return ImageStat.Stat(middle.convert("L")).mean[0]


async def compared(web: WebPage, name: str) -> None:
    """Open the viewer for a completed job."""
    await web.row(name, "completed").first.get_by_role("button", name="Compare").click()
    await web.page.locator("dialog.viewer").wait_for()


async def mode(web: WebPage, name: str) -> None:
    """Choose a way to compare."""
    await web.page.locator("dialog.viewer .segments label", has_text=name).click()


async def test_before_and_after_are_compared_in_every_way(
    web: WebPage, server: Server, photo: Path
) -> None:
    page = web.page
    await web.send(photo, scale=4)
    await web.row("coffee.png", "completed").first.wait_for()
    await compared(web, "coffee.png")
    both = await drawn(page)
    await web.shot("viewer-slider")
    await page.get_by_role("button", name="Before").click()
    before = await drawn(page)
    await page.get_by_role("button", name="After").click()
    after = await drawn(page)
    assert len({picture.tobytes() for picture in (both, before, after)}) == 3
    slider = page.locator("input.split")
    await expect(slider).to_have_value("0")
    await slider.press("ArrowRight")
    await expect(slider).to_have_value("1")
    await mode(web, "Side by side")
    await drawn(page)
    await web.shot("viewer-side")
    await mode(web, "Difference")
    difference = await drawn(page)
    assert 0 < brightness(difference) < brightness(after) / 2
    await web.shot("viewer-difference")
    await mode(web, "Blink")
    await page.locator("canvas.board").press("1")
    await expect(page.locator(".zoom")).to_have_text("100%")
    await expect(page.locator(".tag.before")).to_be_visible()
    await expect(page.locator(".tag.after")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)
    await expect(web.row("coffee.png", "completed").first).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 360])
async def test_axe_finds_nothing_serious_in_viewer_and_preview(
    browser: Browser, server: Server, photo: Path, theme: str, width: int
) -> None:
    async with web_page(
        browser, root(server), width=width, height=780, theme=theme, touch=width < 500
    ) as web:
        await web.open()
        await web.choose(photo)
        await web.page.locator("#preview").click()
        await expect(web.page.locator(".preview-card")).to_have_count(4)
        await expect(web.page.locator(".preview-window.busy")).to_have_count(0, timeout=90_000)
        assert await serious(web.page) == []
        await web.shot(f"preview-{theme}-{width}")
        await web.page.get_by_role("button", name="Close").click()
        await web.page.locator("#send").click()
        await web.row("coffee.png", "completed").first.wait_for()
        await compared(web, "coffee.png")
        await drawn(web.page)
        assert await serious(web.page) == []
        await web.shot(f"viewer-{theme}-{width}")


async def serious(page: Page) -> list[str]:
    """Return what axe finds serious or critical."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]}"
        for rule in found
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]


async def test_models_are_compared_on_a_dragged_part_and_one_is_taken(
    web: WebPage, photo: Path
) -> None:
    await web.choose(photo, model=SLOW_LABEL)
    area = await web.page.locator(".crop-holder").bounding_box()
    assert area is not None
    await web.page.mouse.move(area["x"] + 20, area["y"] + 20)
    await web.page.mouse.down()
    await web.page.mouse.move(area["x"] + 90, area["y"] + 90, steps=4)
    await web.page.mouse.up()
    box = await web.page.locator(".crop-frame").bounding_box()
    assert box is not None
    assert abs(box["x"] - area["x"] - 20) < 4
    assert abs(box["width"] - 70) < 4
    await web.page.locator("#preview").click()
    cards = web.page.locator(".preview-card")
    await expect(cards).to_have_count(4)
    await expect(web.page.locator(".preview-window.busy")).to_have_count(0, timeout=90_000)
    widths = await web.page.evaluate(
        "[...document.querySelectorAll('.preview-card img')].map((image) => image.naturalWidth)"
    )
    told = await web.page.locator(".preview-grid").inner_text()
    assert {width / widths[0] for width in widths[1:]} == {2}, told
    card = cards.filter(has_text="animevideov3")
    await expect(card).to_contain_text("for this part")
    await card.get_by_role("button", name="Use this model").click()
    await expect(web.page.locator("input[value=realesr-animevideov3]")).to_be_checked()


async def test_all_results_are_saved_as_one_archive(
    browser: Browser, serve: Callable[..., Server], photo: Path, tmp_path: Path
) -> None:
    server = serve()
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await api.completed(filename="one.png")
        await api.completed(filename="two.png")
        await web.open()
        async with web.page.expect_download() as saving:
            await web.page.get_by_role("button", name="Download all 2").click()
        await (await saving.value).save_as(tmp_path / "all.zip")
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            assert sorted(archive.namelist()) == ["one_2x.png", "two_2x.png"]
        await web.row("one.png", "gone").first.wait_for()
        await web.row("two.png", "gone").first.wait_for()


async def test_a_cancelled_job_is_tried_again(web: WebPage, large_photo: Path) -> None:
    await web.send(large_photo, model=SLOW_LABEL, scale=4)
    await web.row("large.jpg").first.get_by_role("button", name="Cancel").click()
    row = web.row("large.jpg", "cancelled").first
    await row.get_by_role("button", name="Try again").click()
    await web.row("large.jpg", "processing").first.wait_for()
    await web.row("large.jpg", "processing").first.get_by_role("button", name="Cancel").click()
    await expect(web.row("large.jpg", "cancelled")).to_have_count(2)


@pytest.mark.timeout(240)
async def test_a_hundred_megapixels_are_looked_at_to_their_pixels_in_little_memory(
    browser: Browser, serve: Callable[..., Server], tmp_path: Path
) -> None:
    source = tmp_path / "huge.png"
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((640, 640)).save(source)
    server = serve()
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await api.completed(source.read_bytes(), filename="huge.png", scale="", width="10240")
        await web.open()
        await compared(web, "huge.png")
        await drawn(web.page)
        board = web.page.locator("canvas.board")
        await board.press("1")
        for step in range(12):
            await drawn(web.page)
            for _ in range(8):
                await board.press(("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp")[step % 4])
        for _ in range(4):
            await board.press("+")
        await expect(web.page.locator(".zoom")).to_have_text("1,600%")
        await drawn(web.page)
        await web.shot("viewer-pixels")
        assert largest_tab() < MOST_MEMORY
