"""Fixtures: a running server, and callers whose every answer is held against the contract.

Each test runs twice: with a server on one machine, and with one of a cluster. `testkit.modes` names
those that run once.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from testkit import modes
from testkit.running import Api, Server, configured


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a server in each mode."""
    if "server" in metafunc.fixturenames:
        wanted = modes.of(metafunc.module.__name__, metafunc.function.__name__)
        metafunc.parametrize("server", wanted, indirect=True, scope="package")


@pytest.fixture(scope="package")
def server(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server with default settings for all tests that ask nothing else of it."""
    folder = tmp_path_factory.mktemp("data")
    with ExitStack() as closing:
        cluster = modes.settings(request, folder, closing)
        running = Server(configured(folder, models_dir, **cluster), self_test=True)
        running.start()
        closing.callback(running.stop)
        yield running


@pytest.fixture
def serve(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> Iterator[Callable[..., Server]]:
    """Start servers of one's own: ``serve(server__auth_token="secret")``.

    They get what the shared server found out about the models, so they start quickly. Only
    with ``self_test=True`` does their health become ``ok``. In a cluster, each has one of its own.
    """
    started: list[Server] = []
    closing = ExitStack()

    def make(settings: dict[str, str], self_test: bool) -> None:
        folder = tmp_path / f"data{len(started)}"
        folder.mkdir()
        shutil.copy(server.data_dir / "models.json", folder)
        if server.config.cluster.used:
            settings = modes.settings(request, folder, closing, cluster=True) | settings
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

    with closing:
        yield start
        for running in started:
            running.stop()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A caller of the shared server."""
    async with Api(server) as caller:
        yield caller
