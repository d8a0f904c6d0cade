"""Models of one's own on the page: added, used, refused with a sentence, deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from testkit import checkpoints
from testkit.hurdles import hurdles
from testkit.running import FAST_MODEL, Server
from testkit.web_page import WebPage, web_page
from upscaled.callers import hash_of

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.fixture
def taking(serve: Callable[..., Server], models_dir: Path, tmp_path: Path) -> Server:
    """A server that takes models from its administrator."""
    folder = tmp_path / "models"
    folder.mkdir()
    for ending in ("param", "bin"):
        shutil.copy(models_dir / f"{FAST_MODEL}-x2.{ending}", folder)
    return serve(
        upscaler__models_path=str(folder),
        upscaler__default_model=FAST_MODEL,
        server__auth_token="the main token",
        server__tokens=f"laptop={hash_of('a laptop')}",
        features__model_imports="true",
    )


@pytest.fixture
def published(models_dir: Path, tmp_path: Path) -> Path:
    """The official network for animations as a `.pth`."""
    stem = models_dir / f"{FAST_MODEL}-x4"
    tensors = checkpoints.of_official(
        stem.with_suffix(".param"), stem.with_suffix(".bin"), "compact"
    )
    path = tmp_path / "4x-Maps.pth"
    path.write_bytes(checkpoints.pth(tensors, within="params_ema"))
    return path


async def enter(web: WebPage, token: str) -> None:
    """Load the page with a token."""
    await web.page.goto(web.url)
    await web.page.get_by_label("Token", exact=True).fill(token)
    await web.page.keyboard.press("Enter")
    await web.ready()


async def test_an_administrator_adds_a_model_uses_it_and_deletes_it(
    browser: Browser, taking: Server, published: Path, photo: Path, tmp_path: Path
) -> None:
    async with web_page(browser, f"http://127.0.0.1:{taking.port}/") as web:
        page = web.page
        await enter(web, "the main token")
        await page.get_by_role("button", name="Add a model…").click()
        dialog = page.get_by_role("dialog")
        wrong = tmp_path / "page.pth"
        wrong.write_text("<html>Not found</html>")
        await dialog.get_by_label("File (.pth").set_input_files(wrong)
        await dialog.get_by_role("button", name="Add it").click()
        await expect(dialog.get_by_role("alert")).to_contain_text(
            "page.pth is a web page, not a model"
        )
        await dialog.get_by_label("File (.pth").set_input_files(published)
        await dialog.get_by_label("Licence").fill("BSD-3-Clause")
        assert await hurdles(page) == []
        await dialog.get_by_role("button", name="Add it").click()
        await expect(dialog.locator("#import-progress")).to_have_text(
            "“4x-Maps” can be used now.", timeout=60_000
        )
        await web.shot("import")
        await expect(dialog.get_by_role("alert")).to_be_empty()
        await dialog.get_by_role("button", name="Close").click()
        await expect(page.locator("input[value='4x-Maps']")).to_be_checked()
        await expect(page.locator("#models label", has_text="4x-Maps")).to_contain_text(
            "BSD-3-Clause"
        )
        await page.set_input_files("#files", photo)
        await page.locator("#strip .strip-pick").first.wait_for()
        await page.locator("#send").click()
        await web.row("coffee.png", "completed").first.wait_for(timeout=60_000)
        await page.get_by_role("button", name="Add a model…").click()
        await dialog.get_by_role("button", name="Delete the model 4x-Maps").click()
        await expect(dialog.locator("#own-models li")).to_have_count(0)
        await page.keyboard.press("Escape")
        await expect(page.locator("input[value='4x-Maps']")).to_have_count(0)
        await expect(page.locator(f"input[value={FAST_MODEL}]")).to_be_checked()
        assert web.problems == []


async def test_other_tokens_and_other_servers_show_no_such_button(
    browser: Browser, taking: Server, web: WebPage
) -> None:
    await expect(web.page.locator("#add-model")).to_be_hidden()
    async with web_page(browser, f"http://127.0.0.1:{taking.port}/") as other:
        await enter(other, "a laptop")
        await expect(other.page.locator("#add-model")).to_be_hidden()
        await other.page.get_by_role("button", name="Token").click()
        await other.page.get_by_label("Token", exact=True).fill("the main token")
        await other.page.keyboard.press("Enter")
        await expect(other.page.locator("#add-model")).to_be_visible()
        await other.page.locator("#language").select_option("de")
        await expect(other.page.locator("#add-model")).to_have_text("Modell hinzufügen …")
