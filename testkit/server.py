"""A real server for benches: started in a process of its own, stopped, killed, always reaped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from upscaled.workers import launcher

_READY_SECONDS = 60
_PATIENCE = 0.1  # seconds between two questions
_GONE_SECONDS = 10
_DRAINED_SECONDS = 40


class ServerError(Exception):
    """The server did what it should not."""


class Server:
    """``upscaled serve`` on a free port, with a data folder and a log of its own.

    Args:
        folder: where configuration, data and log go.
        models: folder with the models.
        settings: more of the configuration, by ``section.key``.
    """

    def __init__(
        self, folder: Path, models: Path, settings: Mapping[str, object] | None = None
    ) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "log.txt"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api/v1"
        chosen: dict[str, dict[str, object]] = {}
        wanted: dict[str, object] = {
            "server.port": self.port,
            "upscaler.engine": "builtin",
            "upscaler.models_path": str(models),
            "upscaler.gpu_ids": [-1],
            "storage.data_dir": str(self.data_dir),
            "logging.format": "json",
            **(settings or {}),
        }
        for name, value in wanted.items():
            section, key = name.split(".")
            chosen.setdefault(section, {})[key] = value
        self._config = folder / "config.yaml"
        self._config.write_text(json.dumps(chosen), "utf-8")  # JSON is YAML
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; it need not answer yet."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                # Whatever becomes of the bench, its server ends with it.
                sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()),
                sys.executable, "-m", "upscaled", "serve", "--config", str(self._config),
                stdout=log, stderr=log, env=env,
            )  # fmt: skip

    async def answers(self) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it ended instead.
        """
        await self._until("/models", 200)

    async def works(self) -> None:
        """Wait until its self-test has passed: from then on it does nothing by itself.

        Raises:
            ServerError: it ended instead.
        """
        await self._until("/health", 200)

    async def _until(self, path: str, status: int) -> None:
        async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(self.url + path) as answer:
                        if answer.status == status:
                            return
                assert self._process is not None
                if self._process.returncode is not None:
                    raise ServerError(f"The server ended:\n{self.log.read_text('utf-8')}")
                await asyncio.sleep(_PATIENCE)

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    async def stop(self) -> tuple[int, list[psutil.Process]]:
        """Stop it as a service manager does; see `end`."""
        return await self.end(signal.SIGTERM)

    async def end(self, number: signal.Signals) -> tuple[int, list[psutil.Process]]:
        """Send a signal; return the exit status and processes that outlived the server."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(number)
        status = await self._process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, _GONE_SECONDS)
        return status, alive

    async def reap(self) -> None:
        """Make sure that it is gone, whatever went wrong; see `running`."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_DRAINED_SECONDS):
                await self.stop()
        finally:
            if self._process.returncode is None:
                await self.end(signal.SIGKILL)

    def jobs(self) -> list[dict[str, object]]:
        """Return all records."""
        with contextlib.closing(sqlite3.connect(self.data_dir / "jobs.sqlite3")) as records:
            rows = records.execute("SELECT document FROM jobs").fetchall()
        return [json.loads(row[0]) for row in rows]

    def files(self) -> list[str]:
        """Return what is left of uploads and jobs."""
        return [
            str(path.relative_to(self.data_dir))
            for folder in ("incoming", "jobs")
            for path in (self.data_dir / folder).rglob("*")
        ]

    def events(self) -> list[dict[str, Any]]:
        """Return the log's events; lines that are none are left out."""
        found = []
        for line in self.log.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def completions(self) -> Counter[str]:
        """Return how often each job was completed, by the log."""
        return Counter(
            event["job"]
            for event in self.events()
            if event.get("message", event.get("event")) == "job completed"
        )


@contextlib.asynccontextmanager
async def running(
    folder: Path, models: Path, settings: Mapping[str, object] | None = None
) -> AsyncIterator[Server]:
    """Run a server for the length of the block; it is gone afterwards, with all its children.

    Raises:
        ServerError: it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, models, settings)
    try:
        await server.start()
        await server.works()
        yield server
    finally:
        await server.reap()
