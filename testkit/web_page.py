"""The page at ``/`` in a real browser, watched: nothing may break its policy or fail in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    expect,
)

from testkit.paths import ROOT

SCREENSHOTS = ROOT / "build" / "screenshots"
"""Where the tests leave pictures of the page."""
FAST_LABEL = "animevideov3"
SLOW_LABEL = "General purpose"
_TIMEOUT_MS = 60_000  # for each step; a busy machine is slow
_JOB_TIMEOUT_MS = 240_000  # for the network's work, of which slow processors need a minute
expect.set_options(timeout=_TIMEOUT_MS)
# A refusal is an answer of the server that the page shows; the browser logs it nevertheless.
_ANSWERS = "Failed to load resource"
_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""


class WebPage:
    """The page in a window of its own.

    Args:
        page: the window.
        url: address of the server's root.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        self.addresses: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_ANSWERS):
            self.problems.append(f"{message.type}: {message.text}")

    async def open(self) -> None:
        """Load the page and wait until it can be used."""
        await self.page.goto(self.url)
        await self.ready()

    async def ready(self) -> None:
        """Wait until the page can be used."""
        await self.page.locator("html.ready #models label").first.wait_for()

    async def choose(self, *pictures: Path, model: str = FAST_LABEL, scale: int = 2) -> None:
        """Choose pictures and how to upscale them."""
        await self.page.set_input_files("#files", list(pictures))
        await self.page.locator("#strip .strip-pick").nth(len(pictures) - 1).wait_for()
        await self.choose_model(model, scale)

    async def choose_model(self, model: str = FAST_LABEL, scale: int = 2) -> None:
        """Choose how to upscale what was chosen."""
        await self.page.locator("#models label", has_text=model).click()
        await self.page.locator("#scales label", has_text=f"{scale}×").click()

    async def send(self, *pictures: Path, model: str = FAST_LABEL, scale: int = 2) -> None:
        """Choose pictures and send them."""
        await self.choose(*pictures, model=model, scale=scale)
        await self.page.locator("#send").click()

    def row(self, name: str, state: str = "") -> Locator:
        """Return the rows of pictures with a name, in a state or in any."""
        selector = f'.row[data-state="{state}"]' if state else ".row"
        return self.page.locator(selector, has_text=name)

    async def completed(self, name: str) -> Locator:
        """Wait until the page shows that a job is completed; return its row."""
        row = self.row(name, "completed").first
        await row.wait_for(timeout=_JOB_TIMEOUT_MS)
        return row

    async def shot(self, name: str, *, full: bool = False) -> Path:
        """Take a picture of the page; return its file."""
        path = SCREENSHOTS / f"{name}.png"
        await self.page.screenshot(path=path, full_page=full)
        return path


@asynccontextmanager
async def web_page(
    browser: Browser,
    url: str,
    *,
    width: int = 1440,
    height: int = 900,
    theme: str = "light",
    language: str = "en-GB",
    touch: bool = False,
) -> AsyncIterator[WebPage]:
    """Open a window for ``url``, whose page is not loaded yet.

    Raises:
        AssertionError: the page broke its policy, threw an error or logged one.
    """
    context: BrowserContext = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        locale=language,
        has_touch=touch,
        accept_downloads=True,
    )
    try:
        context.set_default_timeout(_TIMEOUT_MS)
        await context.add_init_script(_REPORT_VIOLATIONS)
        opened = WebPage(await context.new_page(), url)
        yield opened
        assert not opened.problems, "\n".join(opened.problems)
    finally:
        await context.close()
