"""A whole cluster on this machine, in processes of its own: PostgreSQL, API servers, workers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from testkit.network_namespace import NetworkNamespace
from testkit.ports import free_port
from testkit.postgres import PostgresServer
from testkit.services import FAST
from upscaled.workers import launcher

_READY_SECONDS = 120.0
_STOP_SECONDS = 30.0


class MemberProcess:
    """``upscaled serve`` or ``upscaled work`` as a member of a cluster. It may be started again.

    Args:
        folder: where its settings, its data and its log go.
        command: ``serve`` or ``work``.
        settings: by ``section.key``.
        network: where it runs; None: in that of this process.
        environment: further variables.
        prefix: a command that runs the one that follows it.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        settings: Mapping[str, object],
        *,
        network: NetworkNamespace | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._prefix = (*(network.command if network is not None else ()), *prefix)
        self.network = network
        self._environment = dict(environment or {})
        self.name = folder.name
        self.log = folder / "log.txt"
        self._command = command
        folder.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        sections: dict[str, dict[str, object]] = {}
        own = {
            "server.port": self.port,
            "storage.data_dir": str(folder / "data"),
            "cluster.name": self.name,
        }
        for name, value in {**settings, **own}.items():
            section, key = name.split(".")
            sections.setdefault(section, {})[key] = value
        self.config = folder / "config.yaml"
        self.config.write_text(json.dumps(sections), "utf-8")  # JSON is YAML
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process; return when it answers or takes jobs."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
        env |= self._environment
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                # The launcher ends the process when this one ends, however that happens.
                *self._prefix, sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()),
                sys.executable, "-m", "upscaled", self._command, "--config", str(self.config),
                stdout=asyncio.subprocess.PIPE, stderr=log, env=env,
            )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(_READY_SECONDS):
            line = await self.process.stdout.readline()
        if not line.startswith((b"Listening", b"Doing jobs")):
            raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text('utf-8')}")

    async def said(self, words: str, after: int = 0) -> None:
        """Wait until the log has ``words`` beyond its first ``after`` characters."""
        async with asyncio.timeout(_READY_SECONDS):
            while words not in self.log.read_text("utf-8")[after:]:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; return the status."""
        process = self.process
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self.process = None
        return process.returncode or 0

    async def kill(self) -> None:
        """Kill it, as a power cut does."""
        await self.end(signal.SIGKILL)

    async def stop(self) -> int:
        """Stop it as a service manager does; return the status."""
        return await self.end(signal.SIGTERM)


class Cluster:
    """PostgreSQL, a folder as blobs, API servers and workers.

    Args:
        folder: where all of it goes.
        models: folder with the models.
        servers: how many API servers.
        workers: how many workers.
        settings: further settings, by ``section.key``.
        postgres: the server; None: one of its own.
        networks: of the first workers. ``postgres`` must listen on their addresses.
        stores: variables for a process that sees this machine at an address, by that address.
    """

    def __init__(
        self,
        folder: Path,
        models: Path,
        *,
        servers: int = 2,
        workers: int = 3,
        settings: Mapping[str, object] | None = None,
        postgres: PostgresServer | None = None,
        networks: Sequence[NetworkNamespace] = (),
        stores: Callable[[str], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self.postgres = postgres or PostgresServer()
        self.blobs = folder / "blobs"
        shared: dict[str, object] = {
            "cluster.database_url": self.postgres.url(),
            "cluster.blobs": str(self.blobs),
            "upscaler.models_path": str(models),
            "upscaler.engine": "builtin",
            "upscaler.gpu_ids": [-1],
            "upscaler.calibrate": False,
            **(settings or {}),
        }
        self.settings = shared
        """Those of every member, by ``section.key``."""
        self.servers = [
            MemberProcess(folder / f"server-{n + 1}", "serve", shared) for n in range(servers)
        ]
        self.workers = [
            self._worker(
                folder / f"worker-{n + 1}", networks[n] if n < len(networks) else None, stores
            )
            for n in range(workers)
        ]

    def _worker(
        self,
        folder: Path,
        network: NetworkNamespace | None,
        stores: Callable[[str], Mapping[str, str]],
    ) -> MemberProcess:
        if network is None:
            return MemberProcess(folder, "work", self.settings)
        url = {"cluster.database_url": self.postgres.url(host=network.host)}
        return MemberProcess(
            folder, "work", self.settings | url, network=network, environment=stores(network.host)
        )

    async def start(self) -> None:
        """Start all of it."""
        await asyncio.to_thread(self.postgres.start)
        async with asyncio.TaskGroup() as starting:
            for member in (*self.servers, *self.workers):
                starting.create_task(member.start(), name=f"start {member.name}")

    async def close(self) -> None:
        """End all of it."""
        await asyncio.gather(*(member.stop() for member in (*self.workers, *self.servers)))
        await asyncio.to_thread(self.postgres.close)


@contextlib.asynccontextmanager
async def running_cluster(cluster: Cluster) -> AsyncIterator[Cluster]:
    """Run a cluster for the length of the block."""
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()


async def healthy(url: str, workers: int) -> None:
    """Wait until an API server says that so many workers are there and can upscale."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/api/v1/health") as answer:
                told = await answer.json()
            if told["status"] == "ok" and told["workers"] >= workers:
                return
            await asyncio.sleep(0.1)  # nothing tells when health changes


async def submitted(session: aiohttp.ClientSession, api: str, picture: bytes, **fields: str) -> str:
    """Submit a picture; return the job's id."""
    form = aiohttp.FormData(FAST | fields)
    form.add_field("image", picture, filename="photo.png")
    async with session.post(api + "/upscale", data=form) as answer:
        assert answer.status == 202
        return str((await answer.json())["job_id"])


async def result_digest(
    session: aiohttp.ClientSession, api: str, job_id: str, *, keep: bool = True
) -> str:
    """Download a result; return its SHA-256.

    Args:
        session: asks.
        api: the address of the API.
        job_id: a job that is completed.
        keep: False: the result counts as downloaded afterwards.
    """
    async with session.get(f"{api}/download/{job_id}" + ("?keep=true" if keep else "")) as answer:
        assert answer.status == 200, await answer.text()
        return hashlib.sha256(await answer.read()).hexdigest()


async def until_state(session: aiohttp.ClientSession, api: str, job_id: str, state: str) -> Any:
    """Wait until a job is in a state; return its status."""
    async with asyncio.timeout(90), session.get(f"{api}/events/{job_id}") as events:
        async for line in events.content:
            if line.startswith(b"data:") and json.loads(line[5:])["status"] == state:
                break
    async with session.get(f"{api}/status/{job_id}") as answer:
        return await answer.json()
