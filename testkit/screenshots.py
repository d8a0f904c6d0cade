"""Pictures of the page for README and docs, taken from the running product.

``scripts/screenshots`` writes them anew. It needs Chromium.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Page, expect

from testkit.browser import chromium
from testkit.paths import DATA, ROOT
from testkit.server_process import server_process
from testkit.web_page import FAST_LABEL, SLOW_LABEL, WebPage, web_page
from upscaled.models.install import install

IMAGES = ROOT / "docs" / "images"
_QUALITY = 86


async def save(page: Page, name: str) -> None:
    """Write what the window shows as WebP."""
    shot = Image.open(io.BytesIO(await page.screenshot()))
    shot.convert("RGB").save(IMAGES / f"{name}.webp", quality=_QUALITY, method=6)


def pictures(folder: Path) -> list[Path]:
    """Return photos to upscale, small enough for a processor."""
    found = []
    for name, side in (("coffee.jpg", 420), ("chelsea.webp", 400), ("astronaut.png", 300)):
        with Image.open(DATA / name) as photo:
            photo.thumbnail((side, side))
            path = folder / Path(name).with_suffix(".png").name
            photo.convert("RGB").save(path)
        found.append(path)
    return found


async def done(web: WebPage, *names: str) -> None:
    """Wait until the pictures have results."""
    for name in names:
        await web.row(name, "completed").first.wait_for(timeout=600_000)


async def settled(page: Page) -> None:
    """Wait until what is in view was fetched and drawn; the page's stream never ends."""
    await page.evaluate("new Promise((done) => setTimeout(done, 2000))")


async def take(url: str, folder: Path) -> None:
    """Use the page and take its pictures."""
    coffee, cat, astronaut = pictures(folder)
    async with chromium() as browser:
        async with web_page(browser, url) as web:
            await web.open()
            await web.send(cat, model=SLOW_LABEL, scale=4)
            await done(web, cat.name)
            await web.send(astronaut, model=FAST_LABEL, scale=4)
            await done(web, astronaut.name)
            await web.send(coffee, model=SLOW_LABEL, scale=4)
            await web.choose(coffee, model=SLOW_LABEL, scale=4)
            await web.row(coffee.name, "processing").first.wait_for()
            await expect(web.page.locator("#estimate")).to_contain_text("→")
            await save(web.page, "page")
            await web.page.locator("#preview").click()
            await expect(web.page.locator(".preview-card")).to_have_count(4)
            await expect(web.page.locator(".preview-window.busy")).to_have_count(0, timeout=120_000)
            await save(web.page, "page-preview")
            await web.page.keyboard.press("Escape")
            await web.row(cat.name).get_by_role("button", name="Compare").click()
            await web.page.locator("dialog.viewer").wait_for()
            await settled(web.page)
            await save(web.page, "page-compare")
        async with web_page(browser, url, width=390, height=780, theme="dark") as web:
            await web.open()
            await web.page.locator("#queue").scroll_into_view_if_needed()
            await settled(web.page)
            await save(web.page, "page-phone")


async def main() -> None:
    """Start a server and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as name:
        folder = Path(name)
        install(folder / "models")
        async with server_process(folder / "server", folder / "models") as server:
            await take(f"http://127.0.0.1:{server.port}/", folder)


if __name__ == "__main__":
    asyncio.run(main())
