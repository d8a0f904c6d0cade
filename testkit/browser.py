"""A real browser for tests: the system's Chromium, without a window, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
from playwright.async_api import Browser, Page, async_playwright

from testkit.parts import missing

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_MS = 60_000  # for each step; a busy machine is slow


def _program() -> str:
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    return found or missing("chromium")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser, which is closed at the end of the block.

    The test is skipped where there is no Chromium.
    """
    # Chromium's own sandbox does not work for root, which tests in containers are.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_program(), args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


def largest_tab() -> int:
    """Return the bytes that the largest tab of this process's browsers has for itself."""
    return max(
        process.memory_full_info().uss
        for process in psutil.Process().children(recursive=True)
        if "--type=renderer" in process.cmdline()
    )


@asynccontextmanager
async def browser_page() -> AsyncIterator[Page]:
    """Open an empty page in a browser of its own; both are closed at the end of the block.

    A download is kept until then.
    """
    async with chromium() as browser:
        page = await browser.new_page(accept_downloads=True)
        page.set_default_timeout(_TIMEOUT_MS)
        yield page
