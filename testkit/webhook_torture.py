"""Kill a server while its webhooks go to a receiver that fails, and check what was told.

A real server process upscales small pictures. SIGKILL ends it again and again; the receiver answers
half of the messages with an error, drops some connections, and is restarted. In the end every event
of every job must have been taken at least once, in order per job, and none may be about a job that
is not recorded. `bench.webhooks` is the command line.
"""

from __future__ import annotations

import asyncio
import io
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from testkit.receiver import Received, Receiver
from testkit.server_process import ServerProcess
from testkit.torture import FIELDS, picture

_CLIENTS = 6
_ENDS = frozenset({"job.completed", "job.failed", "job.cancelled"})
_PATIENCE_SECONDS = 600


@dataclass
class Told:
    """What happened during the test."""

    accepted: set[str] = field(default_factory=set)
    jobs: int = 0
    """Job records, with those whose 202 was lost."""
    kills: int = 0
    restarts: int = 0
    """Of the receiver."""
    requests: int = 0
    taken: int = 0
    events: int = 0
    """Different messages that were taken."""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


async def torture(
    folder: Path, models: Path, *, jobs: int, kills: int, restarts: int, seed: int
) -> Told:
    """Run the test; what went wrong is in ``problems``."""
    told, moments = Told(), random.Random(seed)

    def answer(_: Received) -> web.Response:
        if moments.random() < 0.5:
            return web.Response(status=204)
        return web.Response(status=moments.choice((500, 503, 404)))

    receiver = Receiver(answer)
    await receiver.start()
    settings = {
        "upscaler.default_model": FIELDS["model_name"],
        "upscaler.max_crashes": 100,
        "limits.max_queue_size": 10_000,
        "outgoing.allow": ["127.0.0.1"],
        "outgoing.ports": [receiver.port],
        "webhooks.retry_seconds": [1] * 50,
    }
    server = ServerProcess(folder, models, settings)
    began = time.monotonic()
    try:
        await server.start()
        await server.wait_until_ready()
        numbers = list(range(jobs))
        async with asyncio.TaskGroup() as tasks:
            for number in range(_CLIENTS):
                tasks.create_task(
                    _client(server, receiver.url, numbers, told, moments), name=f"client {number}"
                )
            tasks.create_task(_kill(server, kills, moments, told), name="killer")
            tasks.create_task(_restart(receiver, restarts, moments, told), name="restarter")
        await _all_told(server, receiver, told)
        await server.stop()
    finally:
        await server.reap()
        await receiver.stop()
    told.seconds = time.monotonic() - began
    _check(server, receiver, told)
    return told


async def _client(
    server: ServerProcess, url: str, numbers: list[int], told: Told, moments: random.Random
) -> None:
    fields = {
        **FIELDS,
        "callback_url": url,
        "callback_events": "started,completed,failed,cancelled",
    }
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        while numbers:
            number, encoded = numbers.pop(), io.BytesIO()
            picture(number).save(encoded, "PNG")
            form = aiohttp.FormData(fields)
            form.add_field("image", encoded.getvalue(), filename="photo.png")
            job_id = ""
            try:
                async with session.post(server.url + "/upscale", data=form) as response:
                    if response.status != 202:
                        told.problems.append(f"submission: {await response.text()}")
                        continue
                    job_id = str((await response.json())["job_id"])
                told.accepted.add(job_id)
                if moments.random() < 0.1:
                    async with session.post(f"{server.url}/cancel/{job_id}"):
                        pass
            except aiohttp.ClientError:
                if not job_id:
                    numbers.append(number)
                await server.wait_until_ready()


async def _kill(server: ServerProcess, kills: int, moments: random.Random, told: Told) -> None:
    while told.kills < kills:
        await server.wait_until_ready()
        await asyncio.sleep(moments.uniform(0.0, 1.5))
        _, alive = await server.end(signal.SIGKILL)
        told.kills += 1
        told.problems += [f"outlived the server: {process}" for process in alive]
        await server.start()


async def _restart(receiver: Receiver, restarts: int, moments: random.Random, told: Told) -> None:
    while told.restarts < restarts:
        await asyncio.sleep(moments.uniform(0.2, 1.5))
        await receiver.stop()
        await asyncio.sleep(moments.uniform(0.0, 1.0))
        await receiver.start()
        told.restarts += 1


async def _all_told(server: ServerProcess, receiver: Receiver, told: Told) -> None:
    """Wait until the end of every recorded job was taken, and of every accepted one."""
    await server.wait_until_ready()
    expected = told.accepted | {str(job["id"]) for job in await asyncio.to_thread(server.jobs)}

    def ended() -> set[str]:
        return {job_id for job_id, types in _taken_of_jobs(receiver).items() if _ENDS & set(types)}

    try:
        await receiver.until(lambda: expected <= ended(), _PATIENCE_SECONDS)
    except TimeoutError:
        missing = sorted(expected - ended())
        told.problems.append(f"never told how they ended: {len(missing)} jobs, {missing[:3]}")


def _taken_of_jobs(receiver: Receiver) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for request in receiver.taken:
        content = request.json
        found.setdefault(content["data"]["job_id"], []).append(content["type"])
    return found


def _check(server: ServerProcess, receiver: Receiver, told: Told) -> None:
    """Compare what the receiver took with the job records."""
    records = {str(job["id"]): job for job in server.jobs()}
    told.jobs, told.requests, told.taken = len(records), len(receiver.requests), len(receiver.taken)
    told.events = len({request.id for request in receiver.taken})
    told.problems += [f"accepted but not recorded: {job}" for job in told.accepted - set(records)]
    mentioned = {request.json["data"]["job_id"] for request in receiver.requests}
    told.problems += [f"told of a job that does not exist: {j}" for j in mentioned - set(records)]
    for job_id, types in _taken_of_jobs(receiver).items():
        record = records.get(job_id, {})
        expected = ["job.started"] if record.get("started") is not None else []
        expected.append(f"job.{record.get('state')}")
        in_order = [kind for kind, previous in zip(types, [None, *types], strict=False)
                    if kind != previous]  # fmt: skip
        if in_order != expected:
            told.problems.append(f"job {job_id} was told {types}, expected {expected}")
    bodies: dict[str, set[bytes]] = {}
    for request in receiver.requests:
        bodies.setdefault(request.id, set()).add(request.body)
    told.problems += [f"{i} came with other contents" for i, b in bodies.items() if len(b) > 1]
    with closing(sqlite3.connect(server.data_dir / "jobs.sqlite3")) as records_file:
        states = Counter(state for (state,) in records_file.execute("SELECT state FROM messages"))
    if set(states) != {"delivered"}:
        told.problems.append(f"messages in the outbox: {dict(states)}")


def table(told: Told) -> str:
    """Return what happened as a table."""
    rows = [
        ("jobs answered with 202", len(told.accepted)),
        ("jobs recorded", told.jobs),
        ("SIGKILLs of the server", told.kills),
        ("restarts of the receiver", told.restarts),
        ("requests to the receiver", told.requests),
        ("of these answered with success", told.taken),
        ("different events taken", told.events),
        ("problems", len(told.problems)),
        ("seconds", round(told.seconds)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>8}" for name, value in rows)
