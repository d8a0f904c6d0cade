"""Fixtures: one server, and real proxies in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.proxies import Proxy
from testkit.running import Server, configured


@pytest.fixture(scope="package")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that trusts the proxies on this machine."""
    config = configured(
        tmp_path_factory.mktemp("data"), models_dir, server__trusted_proxies="127.0.0.1"
    )
    running = Server(config)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="package")
def proxy(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Proxy]]:
    """Return the running proxy of a name; started when it is first asked for."""
    started: dict[str, Proxy] = {}

    def get(name: str) -> Proxy:
        if name not in started:
            made = Proxy(name, server.port, tmp_path_factory.mktemp(name))
            try:
                made.start()
            except BaseException:
                made.stop()
                raise
            started[name] = made
        return started[name]

    yield get
    for one in started.values():
        one.stop()
