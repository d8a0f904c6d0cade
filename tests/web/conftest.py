"""Fixtures: servers, and the page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser

from testkit.browser import chromium
from testkit.paths import DATA
from testkit.running import Server, configured
from testkit.web_page import WebPage, web_page


@pytest.fixture(scope="package")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with default settings for all tests that ask nothing else of it."""
    running = Server(configured(tmp_path_factory.mktemp("data"), models_dir), self_test=True)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def serve(server: Server, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of one's own: ``serve(server__auth_token="secret")``."""
    started: list[Server] = []

    def make(settings: dict[str, str]) -> None:
        folder = tmp_path / f"data{len(started)}"
        folder.mkdir()
        shutil.copy(server.data_dir / "models.json", folder)
        running = Server(configured(folder, server.config.models_dir, **settings))
        running.start()
        started.append(running)

    def start(**settings: str) -> Server:
        # In a thread, since the test that calls this has an event loop that must not be blocked.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(make, settings).result()
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    """A browser for all tests; each opens a window without the traces of others in it."""
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def web(browser: Browser, server: Server) -> AsyncIterator[WebPage]:
    """The page of the shared server, loaded."""
    async with web_page(browser, root(server)) as opened:
        await opened.open()
        yield opened


def root(server: Server) -> str:
    """Return the address of the page."""
    return f"http://127.0.0.1:{server.port}/"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of 300×200 pixels."""
    path = tmp_path / "coffee.png"
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((300, 200)).save(path)
    return path


@pytest.fixture
def large_photo(tmp_path: Path) -> Path:
    """A photo of 1200×800 pixels: seconds for the fast model, minutes for the slow one."""
    path = tmp_path / "large.jpg"
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((1200, 800)).save(path, quality=90)
    return path
