"""Fixtures: a running server, and callers whose every answer is held against the contract."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testkit.running import Api, Server, configured


@pytest.fixture(scope="session")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with default settings for all tests that ask nothing else of it."""
    running = Server(configured(tmp_path_factory.mktemp("data"), models_dir), self_test=True)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def serve(server: Server, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of one's own: ``serve(server__auth_token="secret")``.

    They get what the shared server found out about the models, so they start quickly. Only
    with ``self_test=True`` does their health become ``ok``.
    """
    started: list[Server] = []

    def make(settings: dict[str, str], self_test: bool) -> None:
        folder = tmp_path / f"data{len(started)}"
        folder.mkdir()
        shutil.copy(server.data_dir / "models.json", folder)
        running = Server(
            configured(folder, server.config.models_dir, **settings), self_test=self_test
        )
        running.start()
        started.append(running)

    def start(*, self_test: bool = False, **settings: str) -> Server:
        # In a thread, since the test that calls this has an event loop that must not be blocked.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(make, settings, self_test).result()
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A caller of the shared server."""
    async with Api(server) as caller:
        yield caller
