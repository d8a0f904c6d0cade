"""A job on every core while 1,000 listeners follow it live, against the same job without.

    python -m bench.events [--listeners 1000] [--quick]

The listeners run in a separate process, each with a connection of its own to
``GET /events/{job_id}``. They share the machine with the server, so their own work slows the job
too; their processor time and what they add to the server's are shown apart. Before and after each
job with listeners, a job runs without; its time is compared with the mean of those two. A listener
that does not see the end of the job, or sees two events with one id or ids that fall, counts as an
error.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import statistics
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import psutil

from bench.client import FAST, Client, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.server_process import ServerProcess, server_process

SLOWED_BY = 5.0
FIELDS = {"model_name": FAST, "scale": "4", "format": "jpeg"}
_ENDED_SECONDS = 10


@dataclass
class Heard:
    """What the listeners heard."""

    events: int = 0
    errors: list[str] = field(default_factory=list)
    processor: float = 0.0
    """Processor time of the listeners, in seconds."""


async def listen(port: int, path: str, heard: Heard, joined: asyncio.Semaphore) -> None:
    """Read one stream to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    await reader.readuntil(b"data: ")
    joined.release()
    rest = await reader.read(-1)
    writer.close()
    ids = [int(number) for number in re.findall(rb"id: ([0-9]+)\n", rest)]
    heard.events += 1 + len(ids)
    if ids != sorted(set(ids)) or b'"status":"completed"' not in rest:
        heard.errors.append(rest[-200:].decode("utf-8", "replace"))


async def listen_all(port: int, path: str, listeners: int, pipe: Connection) -> Heard:
    """Open all streams, tell through ``pipe`` that they are, read them to their end."""
    heard, joined = Heard(), asyncio.Semaphore(0)
    own = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(listeners):
            tasks.create_task(listen(port, path, heard, joined), name=f"listener-{number}")
        for _ in range(listeners):
            await joined.acquire()
        pipe.send("joined")
    heard.processor = time.process_time() - own
    return heard


def listeners_main(port: int, path: str, listeners: int, pipe: Connection) -> None:
    """Run the listeners of one job; send a `Heard`."""
    pipe.send(asyncio.run(listen_all(port, path, listeners, pipe)))


def memory_mib(server: ServerProcess) -> float:
    """Return the resident memory of the server process, without its children."""
    return float(psutil.Process(server.pid).memory_info().rss) / 2**20


def processor_seconds(server: ServerProcess) -> float:
    """Return the processor time that the server process has used, without its children."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


@dataclass
class Took:
    """What one job took."""

    seconds: float
    processor: float
    """Processor time of the server process meanwhile, in seconds."""


async def took(client: Client, server: ServerProcess, job_id: str) -> Took:
    """Wait for the end of a job that is next in the queue, fetch its result."""
    before = processor_seconds(server)
    status = await client.until(job_id)
    used = processor_seconds(server) - before
    await client.download(job_id)
    return Took(float(status["duration_seconds"]), used)


async def followed(
    client: Client, server: ServerProcess, picture: bytes, listeners: int
) -> tuple[Took, float, Heard]:
    """Run a job with listeners; return what it took, the added MiB of memory, what was heard."""
    before = memory_mib(server)
    blocker = await client.submit(picture, FIELDS)  # the job waits until the listeners are there
    job_id = await client.submit(picture, FIELDS)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (server.port, f"/api/v1/events/{job_id}", listeners, theirs)
    process = context.Process(target=listeners_main, args=arguments, daemon=True)
    process.start()
    try:
        await asyncio.to_thread(ours.recv)
        added = memory_mib(server) - before
        await took(client, server, blocker)
        job = await took(client, server, job_id)
        heard: Heard = await asyncio.to_thread(ours.recv)
        process.join(_ENDED_SECONDS)
    finally:
        process.kill()
        process.join()
    return job, added, heard


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Run all rounds and fill ``report``."""
    width, height = (1200, 900) if options.quick else (2400, 1800)
    picture = photos.png(photos.photo(width, height))
    settings = {**setup.settings, "server.max_connections": 2 * options.listeners + 100}
    slowed, spent, alone, added, heard = [], [], [], [], []
    async with (
        server_process(setup.folder / "server", setup.models, settings) as server,
        connect(server) as client,
    ):

        async def left_alone() -> Took:
            # Like the job with listeners it follows another one, during which it is decoded.
            blocker = await client.submit(picture, FIELDS)
            job_id = await client.submit(picture, FIELDS)
            await took(client, server, blocker)
            job = await took(client, server, job_id)
            alone.append(job.seconds)
            return job

        await left_alone()  # starts the engine
        for _ in range(options.rounds):
            before = await left_alone()
            job, memory, told = await followed(client, server, picture, options.listeners)
            after = await left_alone()
            slowed.append(2 * job.seconds / (before.seconds + after.seconds))
            spent.append(job.processor - (before.processor + after.processor) / 2)
            added.append(memory)
            heard.append(told)
    who = f"{options.listeners:,} listeners"
    events = sum(one.events for one in heard)
    errors = [error for one in heard for error in one.errors]
    report.add(f"{who}: errors", len(errors), target=0, note=f"of {events:,} events")
    report.add(f"{who}: the job is slowed by", 100 * (statistics.median(slowed) - 1), "%",
               target=None if report.quick else SLOWED_BY, sense="under")  # fmt: skip
    report.add(f"{who}: server's processor time added", statistics.median(spent), "s")
    report.add(f"{who}: server memory added", statistics.median(added), "MiB")
    report.add(f"{who}: their own processor time",
               statistics.median(one.processor for one in heard), "s")  # fmt: skip
    report.add("the job alone", statistics.median(alone), "s")
    report.details = {"slowed": slowed, "spent": spent, "errors": errors[:10]}


def main() -> None:
    parser = make_parser("events", __doc__)
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    report = Report("events", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
