"""A storm: parts of a cluster fail, one after the other and at the same time, while callers submit.

What callers are told goes into a `History`, which says afterwards whether any of it can't be.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

from testkit import network_namespace
from testkit.cluster import Cluster, MemberProcess, healthy, running_cluster
from testkit.faulty_s3 import Fault, FaultyS3
from testkit.history import Caller, History, event_of
from testkit.network_namespace import network_namespaces
from testkit.paths import DATA
from testkit.postgres import PostgresServer
from testkit.receiver import Received, Receiver
from testkit.services import FAST, make_config, running, submit

API = "/api/v1"
LEASE_SECONDS = 3
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": LEASE_SECONDS,
    "limits.max_queue_size": 1000,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 100,
    "server.drain_seconds": 5,
    "outgoing.allow": ["127.0.0.1"],
    "outgoing.ports": [],
    "webhooks.retry_seconds": [1] * 50,
}
_AT_ONCE = 40

WORKERS, CUTS, SERVERS, DATABASES = (
    "workers killed", "workers cut off", "servers restarted", "PostgreSQL killed",
)  # fmt: skip
BLOBS = "seconds of failing blobs"


@dataclass(frozen=True)
class Picture:
    """A picture, and the digest of the result that one machine makes of it."""

    content: bytes
    expected: str


def is_cuttable(cluster: Cluster) -> bool:
    """Tell whether a worker has a network that can be cut."""
    return any(worker.network is not None for worker in cluster.workers)


async def pictures(folder: Path, models: Path, count: int) -> list[Picture]:
    """Make photos of 48×32 pixels, each another one, and let one machine upscale them."""
    contents = []
    with Image.open(DATA / "coffee.jpg") as photo:
        for number in range(count):
            buffer = io.BytesIO()
            box = (number * 40, 0, number * 40 + 200, 130)
            photo.crop(box).resize((48, 32)).save(buffer, "PNG")
            contents.append(buffer.getvalue())
    async with running(make_config(folder / "alone", models)) as service:
        jobs = []
        for number, content in enumerate(contents):
            path = folder / f"{number}.png"
            path.write_bytes(content)
            jobs.append(await submit(service, path))
        for job in jobs:
            await service.jobs.wait(job.id)
        results = [await service.jobs.result(job.id) for job in jobs]
    return [Picture(c, r.sha256) for c, r in zip(contents, results, strict=True)]


@contextlib.asynccontextmanager
async def cluster_for_storms(
    folder: Path, models: Path, database: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Cluster, FaultyS3]]:
    """Run two API servers and three workers with a store of blobs that can fail.

    As root, the first worker has a network of its own, which can be cut.

    Args:
        folder: for all files.
        models: the installed models.
        database: settings of PostgreSQL.
    """
    cuttable = await asyncio.to_thread(network_namespace.possible)
    with network_namespaces(1 if cuttable else 0) as networks:
        hosts = [network.host for network in networks]
        async with FaultyS3(host="0.0.0.0" if hosts else "127.0.0.1").running() as store:
            with pytest.MonkeyPatch.context() as environment:
                for name, value in store.environment().items():
                    environment.setenv(name, value)
                made = Cluster(
                    folder,
                    models,
                    settings=SETTINGS | {"cluster.blobs": store.url},
                    postgres=PostgresServer(addresses=hosts, settings=database or {}),
                    networks=networks,
                    stores=store.environment,
                )
                async with running_cluster(made) as cluster:
                    await healthy(cluster.servers[0].url, len(cluster.workers))
                    yield cluster, store


class Storm:
    """Fells the parts of a cluster.

    Args:
        cluster: runs.
        store: its blobs.
        pause: seconds between two faults of processes and networks.
        blob_seconds: for how long the blobs answer each request with an error.
        turns: what fails in turn, again and again.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: FaultyS3,
        *,
        pause: float,
        blob_seconds: float,
        turns: Sequence[str],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._pause = pause
        self._blob_seconds = blob_seconds
        self._turns = turns
        self.struck: Counter[str] = Counter()

    async def rage(self) -> None:
        """Let each thing of the turns fail once, and the blobs for their time meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fail_blobs(), name="failing blobs")
            tasks.create_task(self._fell(), name="felled processes")

    async def _fail_blobs(self) -> None:
        await asyncio.sleep(self._pause)
        with self._store.failing(Fault.ERRORS):
            await asyncio.sleep(self._blob_seconds)
        self.struck[BLOBS] += round(self._blob_seconds)

    async def _fell(self) -> None:
        for number, what in enumerate(self._turns):
            await asyncio.sleep(self._pause)
            workers, servers = self._cluster.workers, self._cluster.servers
            worker = workers[number % len(workers)]
            if what == WORKERS:
                await worker.kill()
                await _started(worker)
            elif what == CUTS:
                cut = next(one for one in workers if one.network is not None)
                assert cut.network is not None
                await asyncio.to_thread(cut.network.cut)
                await asyncio.sleep(2 * LEASE_SECONDS)
                await asyncio.to_thread(cut.network.heal)
            elif what == SERVERS:
                server = servers[number % len(servers)]
                await server.stop()
                await _started(server)
            else:
                await asyncio.to_thread(self._cluster.postgres.kill)
                await asyncio.to_thread(self._cluster.postgres.start)
            self.struck[what] += 1


async def _started(member: MemberProcess) -> None:
    """Start a member, as a service manager does: again if it ends, since its stores fail."""
    while True:
        try:
            await member.start()
        except RuntimeError:
            await member.stop()
        else:
            return


async def call(
    cluster: Cluster,
    history: History,
    shown: Sequence[Picture],
    jobs: int,
    *,
    cancels: bool,
    callback_url: str = "",
    until: asyncio.Event | None = None,
) -> dict[str, str]:
    """Submit jobs and follow them to their ends; return the wanted digests by job id.

    Args:
        cluster: whose API servers are asked.
        history: takes the answers.
        shown: the pictures.
        jobs: how many jobs, at least.
        cancels: cancel each tenth job.
        callback_url: gets the webhooks of all jobs; empty: there are none.
        until: jobs go on being submitted until it is set.
    """
    servers = [server.url + API for server in cluster.servers]
    wanted: dict[str, str] = {}
    fields = dict(FAST)
    if callback_url:
        events = "started,completed,failed,cancelled"
        fields |= {"callback_url": callback_url, "callback_events": events}
    numbers = iter(range(1 << 30))

    async def one_after_the_other() -> None:
        for number in numbers:
            if number >= jobs and (until is None or until.is_set()):
                return
            picture = shown[number % len(shown)]
            caller = Caller(servers, history, seed=number)
            cancel = cancels and number % 10 == 9
            wanted[await caller.upscale(picture.content, fields, cancel=cancel)] = picture.expected

    async with asyncio.TaskGroup() as tasks:
        for number in range(min(_AT_ONCE, jobs)):
            tasks.create_task(one_after_the_other(), name=f"caller {number}")
    return wanted


def fickle() -> Callable[[Received], web.Response]:
    """Return the answers of a receiver: each third message meets an error."""
    numbers = itertools.count()
    return lambda _: web.Response(status=503 if next(numbers) % 3 == 0 else 204)


async def weather(
    cluster: Cluster, storm: Storm, history: History, shown: Sequence[Picture], jobs: int,
    receiver: Receiver,
) -> dict[str, str]:  # fmt: skip
    """Let callers submit ``jobs`` or more for as long as the storm rages; as `call`.

    Their webhooks go to the receiver; all that are due have come when this returns, or a minute
    later than the callers' last answer.
    """
    over = asyncio.Event()

    async def rage() -> None:
        try:
            await storm.rage()
        finally:
            over.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rage(), name="storm")
        calling = tasks.create_task(
            call(
                cluster, history, shown, jobs,
                cancels=True, callback_url=receiver.url, until=over,
            ),
            name="callers",
        )  # fmt: skip
    due = history.due_events()
    with contextlib.suppress(TimeoutError):
        await receiver.until(lambda: due <= {event_of(taken) for taken in receiver.taken})
    return calling.result()
