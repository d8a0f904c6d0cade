"""A real server in a process of its own: started, stopped, killed, and always reaped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from testkit.ports import free_port
from upscaled.workers import launcher

_READY_SECONDS = 120
_CHILDREN_END_SECONDS = 10
_STOP_SECONDS = 40


class ServerError(Exception):
    """The server ended, refused a request, or is not healthy."""


class _NoticeReader(asyncio.DatagramProtocol):
    """Sets an event for each of the two notices that a server sends (sd_notify(3))."""

    def __init__(self, ready: asyncio.Event, tested: asyncio.Event) -> None:
        self._ready = ready
        self._tested = tested

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data.startswith(b"READY=1"):
            self._ready.set()
        elif data.startswith(b"STATUS="):
            self._tested.set()


class ServerProcess:
    """``upscaled serve`` on a free port, with its own data folder and log file.

    It may be started again after it ended. The server reports over a ``NOTIFY_SOCKET``, as it
    does to systemd, when it is ready and when its self-test is done.

    Args:
        folder: where configuration, data and log go.
        models: folder with the models.
        settings: further settings, by ``section.key``.
    """

    def __init__(
        self, folder: Path, models: Path, settings: Mapping[str, object] | None = None
    ) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "log.txt"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api/v1"
        sections: dict[str, dict[str, object]] = {}
        merged: dict[str, object] = {
            "server.port": self.port,
            "upscaler.engine": "builtin",
            "upscaler.models_path": str(models),
            "upscaler.gpu_ids": [-1],
            "storage.data_dir": str(self.data_dir),
            "logging.format": "json",
            # What is measured and timed here must have the processor for itself.
            "upscaler.calibrate": False,
            **(settings or {}),
        }
        for name, value in merged.items():
            section, key = name.split(".")
            sections.setdefault(section, {})[key] = value
        self._config = folder / "config.yaml"
        self._config.write_text(json.dumps(sections), "utf-8")  # JSON is YAML
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._notices: asyncio.DatagramTransport | None = None
        self._ready = asyncio.Event()
        self._tested = asyncio.Event()
        self._crashed = asyncio.Event()

    async def start(self) -> None:
        """Start the process; `wait_until_ready` waits until it answers."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
        address = f"upscaled-{uuid.uuid4()}"  # abstract: no file, gone with its socket
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notices.setblocking(False)
        notices.bind(f"\0{address}")
        self._crashed.clear()
        self._notices, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _NoticeReader(self._ready, self._tested), sock=notices
        )
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                # The launcher ends the server when this process ends, however that happens.
                sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()),
                sys.executable, "-m", "upscaled", "serve", "--config", str(self._config),
                stdout=log, stderr=log, env=env | {"NOTIFY_SOCKET": f"@{address}"},
            )  # fmt: skip
        self._watcher = asyncio.create_task(self._watch(self._process), name="server's end")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Note an end of the process that `end` did not cause."""
        await process.wait()
        self._forget_notices()
        self._crashed.set()

    def _forget_notices(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None
        self._ready.clear()
        self._tested.clear()

    async def wait_until_ready(self) -> None:
        """Wait until it answers requests; while it is down, until it was started again.

        Raises:
            ServerError: it ended by itself.
        """
        await self._wait(self._ready)

    async def wait_until_healthy(self) -> None:
        """Wait until its self-test passed: from then on it does nothing without a request.

        Raises:
            ServerError: it ended by itself, or the self-test failed.
        """
        await self._wait(self._tested)
        async with aiohttp.ClientSession() as session, session.get(self.url + "/health") as answer:
            if answer.status != 200:
                raise ServerError(f"The server is not healthy: {await answer.text()}")

    async def _wait(self, event: asyncio.Event) -> None:
        waits = [asyncio.create_task(one.wait()) for one in (event, self._crashed)]
        try:
            await asyncio.wait(waits, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not event.is_set():
            how = "ended" if self._crashed.is_set() else f"did not report in {_READY_SECONDS} s"
            raise ServerError(f"The server {how}:\n{self.log.read_text('utf-8')}")

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    async def stop(self) -> tuple[int, list[psutil.Process]]:
        """Stop it as a service manager does; see `end`."""
        return await self.end(signal.SIGTERM)

    async def end(self, number: signal.Signals) -> tuple[int, list[psutil.Process]]:
        """Send a signal and wait until the process ended.

        Returns:
            The exit status, and child processes that outlived the server.
        """
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        await self._stop_watching()
        self._process.send_signal(number)
        status = await self._process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, _CHILDREN_END_SECONDS)
        return status, alive

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        self._forget_notices()

    async def reap(self) -> None:
        """Make sure that the process is gone, whatever went wrong."""
        await self._stop_watching()
        if self._process is None or self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.stop()
        finally:
            if self._process.returncode is None:
                await self.end(signal.SIGKILL)

    def jobs(self) -> list[dict[str, object]]:
        """Return all job records in the store."""
        with contextlib.closing(sqlite3.connect(self.data_dir / "jobs.sqlite3")) as records:
            rows = records.execute("SELECT document FROM jobs").fetchall()
        return [json.loads(row[0]) for row in rows]

    def files(self) -> list[str]:
        """Return the files of uploads and jobs that exist now, relative to the data folder."""
        return [
            str(path.relative_to(self.data_dir))
            for folder in ("incoming", "jobs")
            for path in (self.data_dir / folder).rglob("*")
        ]

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the log; lines that are not JSON are left out."""
        found = []
        for line in self.log.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def completions(self) -> Counter[str]:
        """Return how often each job was completed, according to the log."""
        return Counter(
            event["job"]
            for event in self.events()
            if event.get("message", event.get("event")) == "job completed"
        )


@contextlib.asynccontextmanager
async def server_process(
    folder: Path, models: Path, settings: Mapping[str, object] | None = None
) -> AsyncIterator[ServerProcess]:
    """Run a healthy server for the length of the block; afterwards no process of it is left.

    Raises:
        ServerError: it does not start, or is not healthy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(folder, models, settings)
    try:
        await server.start()
        await server.wait_until_healthy()
        yield server
    finally:
        await server.reap()
