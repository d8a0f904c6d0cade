"""Fixtures: a running server, and the client under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from testkit.running import Server, configured
from upscaled.client import AsyncClient


@pytest.fixture(scope="package")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of the client."""
    running = Server(configured(tmp_path_factory.mktemp("data"), models_dir))
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    """A client of the server."""
    async with AsyncClient(f"http://127.0.0.1:{server.port}") as calling:
        yield calling
