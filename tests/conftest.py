"""Fixtures for every test: the real models, and a guard over the event loop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings
from PIL import Image

from testkit.paths import DATA
from testkit.postgres import PostgresServer
from upscaled.models.install import install

# A busy machine is slow; that is no fault of what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official models under their official names; don't write to it."""
    folder = tmp_path_factory.mktemp("models")
    install(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def guard() -> Iterator[BlockBuster]:
    """Fail a test in which code of the package blocks a running event loop.

    For the whole session: functions that are replaced while a server's thread is in the middle of
    `shutil.rmtree` break it.
    """
    with blockbuster_ctx("upscaled") as guard:
        for name in ("io.TextIOWrapper.write", "io.BufferedWriter.write", "os.stat"):
            # Handlers that tests attach write to files; records look up their own source.
            guard.functions[name].can_block_in("logging/__init__.py", {"emit", "handle"})
        for name in ("os.stat", "os.listdir", "os.access", "os.getcwd", "os.read"):
            # An import inside a function runs once; a child's start reads one small pipe.
            guard.functions[name].can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
            guard.functions[name].can_block_in("subprocess.py", {"_execute_child"})
        # Settings are read before the loop runs; tests read them inside it.
        guard.functions["os.getcwd"].can_block_in("upscaled/config/sources.py", {"load"})
        yield guard


@pytest.fixture
def may_block(guard: BlockBuster) -> Iterator[None]:
    """Let a test look at a process while that works."""
    guard.deactivate()
    yield
    guard.activate()


@pytest.fixture
def thumbnail(tmp_path: Path) -> Path:
    """A photo of 48×32 pixels as PNG, cheap for every network."""
    path = tmp_path / "thumbnail.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((48, 32)).save(path)
    return path


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let children be interrupted: a shell has what runs in the background ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; a test makes databases of its own in it, and leaves it running."""
    server = PostgresServer()
    server.start()
    yield server
    server.close()
