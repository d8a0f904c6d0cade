"""Fixtures: one server, and real proxies in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from testkit.proxies import Proxy
from testkit.running import Api, Server, configured

_WIDTH, _HEIGHT = 5000, 4000


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


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    async with Api(server) as caller:
        yield caller


@pytest.fixture(autouse=True)
async def nothing_left(api: Api) -> AsyncIterator[None]:
    """Cancel what a client that failed has left: the jobs of all other tests would wait for it."""
    yield
    for job in (await api.get("/jobs?limit=50")).json["jobs"]:
        if job["status"] in {"queued", "processing"}:
            await api.post(f"/cancel/{job['job_id']}")


@pytest.fixture(scope="package")
def large_upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BMP of 60 MB."""
    path = tmp_path_factory.mktemp("pictures") / "large.bmp"
    size = _WIDTH * _HEIGHT * 3
    header = b"BM" + (54 + size).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + _WIDTH.to_bytes(4, "little")
    header += _HEIGHT.to_bytes(4, "little") + b"\1\0\x18\0" + bytes(24)
    path.write_bytes(header + bytes(size))
    return path
