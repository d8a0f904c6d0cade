"""A job on every core while 500 clients poll its status, against the same job without clients.

    python -m bench.pollers [--clients 500] [--every 1 5] [--wait 30] [--quick]

The clients poll at intervals, and with ``?wait=``, where the answer waits for the job's end. They
run in a separate process, each with a connection that stays open. They share the machine with the
server, so their own work slows the job too; their processor time is printed beside the server's.
Two lower bounds are measured with the same requests at the shortest interval: a process with an
empty aiohttp handler, and a process that answers on bare sockets with the same bytes whatever it
receives.

Before and after each job with clients, a job runs without; its time is compared with the mean of
those two, since the speed of a machine changes from minute to minute, and the median of these
ratios counts. A quick run polls every 5 s and with ``?wait=`` only, and its single round has no
targets.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import heapq
import multiprocessing
import os
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import psutil
from aiohttp import web

from bench.client import FAST, Client, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.server_process import ServerProcess, server_process

SLOWED_BY = 5.0
LEAST_SECONDS = 3.0
"""A job that takes less gets a larger picture, so that enough requests fall into it."""
FIELDS = {"model_name": FAST, "scale": "4", "format": "jpeg"}
LowerBound = Callable[[Connection], None]
"""The main function of a lower bound: sends its port through the pipe, serves until an answer."""

_LONGEST = 64 * 1024
_ENDED_SECONDS = 5


@dataclass
class Asked:
    """What the clients measured."""

    answered: int = 0
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """The slowest answer, in seconds."""
    processor: float = 0.0
    """Processor time of the clients, in seconds."""


@dataclass(frozen=True)
class Way:
    """How the clients poll."""

    name: str
    every: float | None
    """Seconds between a client's requests; None: the next follows the answer."""
    query: str = ""
    lower_bound: LowerBound | None = None
    """The lower bound that they poll instead of the service."""


@dataclass(frozen=True)
class Round:
    """A job with clients, and the jobs without clients before and after it."""

    alone: float
    """Mean seconds of the two jobs without clients."""
    polled: float
    """Seconds of the job with clients."""
    added: float
    """Additional processor time of the server, in seconds."""
    asked: Asked


def poll(port: int, clients: int, every: float | None, pipe: Connection) -> None:
    """Connect, receive a path through ``pipe``, poll it until the next message, send an `Asked`.

    Each client sends a request every ``every`` seconds, or, with None, as soon as it has an answer
    that does not tell the job's end.
    """
    asked = Asked()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    pipe.send("connected")
    request = f"GET {pipe.recv()} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    began, own = time.monotonic(), time.process_time()
    # The requests are spread evenly over the interval.
    due = [((every or 1.0) * number / clients, number) for number in range(clients)]
    sent = [0.0] * clients
    for number, connection in enumerate(connections):
        selector.register(connection, selectors.EVENT_READ, number)
    selector.register(pipe.fileno(), selectors.EVENT_READ, None)
    asking = True
    unanswered: set[int] = set()
    # When the job has ended, clients that wait for it still have to get their answer.
    while asking or (every is None and unanswered):
        now = time.monotonic() - began
        while due and due[0][0] <= now:
            _, number = heapq.heappop(due)
            connections[number].sendall(request)
            sent[number] = now
            unanswered.add(number)
        for key, _ in selector.select(due[0][0] - now if due else None):
            if key.data is None:
                asking = False
                selector.unregister(pipe.fileno())
                continue
            number = key.data
            unanswered.discard(number)
            answer = connections[number].recv(_LONGEST)
            arrived = time.monotonic() - began
            if not (answer.startswith(b"HTTP/1.1 200 ") and b'"status"' in answer):
                asked.errors.append(answer[:200].decode("utf-8", "replace") or "closed")
                selector.unregister(connections[number])
                continue
            asked.answered += 1
            if every is not None:
                asked.slowest = max(asked.slowest, arrived - sent[number])
                heapq.heappush(due, (max(sent[number] + every, arrived), number))
            elif b'"completed"' not in answer:
                heapq.heappush(due, (arrived, number))
    asked.processor = time.process_time() - own
    for connection in connections:
        connection.close()
    pipe.recv()
    pipe.send(asked)


async def answer_nothing(pipe: Connection) -> None:
    """Serve an empty handler; send its port through ``pipe`` and stop on an answer."""

    async def handle(_: web.Request) -> web.Response:
        return web.json_response({"status": "processing"})

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pipe.send(runner.addresses[0][1])
    await asyncio.to_thread(pipe.recv)
    await runner.cleanup()


def empty_handler(pipe: Connection) -> None:
    """Run the lower bound with an empty aiohttp handler."""
    asyncio.run(answer_nothing(pipe))


def bare_sockets(pipe: Connection) -> None:
    """Run the lower bound on bare sockets: answer everything with the same bytes."""
    body = b'{"status": "processing"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as door:
        selector = selectors.DefaultSelector()
        selector.register(door, selectors.EVENT_READ)
        selector.register(pipe.fileno(), selectors.EVENT_READ)
        pipe.send(door.getsockname()[1])
        while True:
            for key, _ in selector.select():
                if key.fileobj is door:
                    selector.register(door.accept()[0], selectors.EVENT_READ)
                elif isinstance(key.fileobj, int):
                    return
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj.recv(_LONGEST):
                        key.fileobj.sendall(answer)
                    else:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()


@contextmanager
def lower_bound_server(lower_bound: LowerBound) -> Iterator[tuple[int, int]]:
    """Run a lower bound in a process for the length of the block; yield port and pid."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=lower_bound, args=(theirs,), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield ours.recv(), process.pid
        ours.send("stop")
        process.join(_ENDED_SECONDS)
    finally:
        process.kill()
        process.join()


@contextmanager
def pollers(port: int, clients: int, every: float | None) -> Iterator[Connection]:
    """Run the connected clients in a process for the length of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=poll, args=(port, clients, every, theirs), daemon=True)
    process.start()
    try:
        ours.recv()
        yield ours
    finally:
        process.join(_ENDED_SECONDS)
        process.kill()
        process.join()


def own_seconds(pid: int) -> float:
    """Return the processor seconds of a process, without its children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def one_job(client: Client, server: ServerProcess, picture: bytes) -> tuple[str, float]:
    """Run a job without clients; return its id and the server process's processor seconds."""
    before = own_seconds(server.pid)
    job_id = await client.submit(picture, FIELDS)
    await client.until(job_id)
    return job_id, own_seconds(server.pid) - before


async def polled_job(
    client: Client, picture: bytes, clients: int, way: Way, port: int, pid: int
) -> tuple[str, float, Asked]:
    """Run a job while clients poll ``port``, which belongs to the process ``pid``."""
    with pollers(port, clients, way.every) as pipe:
        before = own_seconds(pid)
        job_id = await client.submit(picture, FIELDS)
        pipe.send("/" if way.lower_bound else f"/api/v1/status/{job_id}{way.query}")
        await client.until(job_id)
        spent = own_seconds(pid) - before
        pipe.send("stop")
        asked: Asked = await asyncio.to_thread(pipe.recv)
    return job_id, spent, asked


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Run all rounds and fill ``report``."""
    width, height = (800, 600) if options.quick else (1200, 900)
    picture = photos.png(photos.photo(width, height))
    shortest = min(options.every)
    ways = [
        *(Way(f"a request every {every:g} s", every) for every in options.every),
        Way(f"each waits for the end, at most {options.wait} s", None, f"?wait={options.wait}"),
    ]
    if not options.quick:
        asks = f"a request every {shortest:g} s"
        ways += [
            Way(f"{asks} to an empty aiohttp handler", shortest, lower_bound=empty_handler),
            Way(f"{asks} to bare sockets", shortest, lower_bound=bare_sockets),
        ]
    alone: list[float] = []
    idle: list[float] = []
    rounds: dict[Way, list[Round]] = {way: [] for way in ways}
    async with (
        server_process(setup.folder / "server", setup.models, setup.settings) as server,
        connect(server) as client,
    ):

        async def seconds_of(job_id: str) -> float:
            seconds = (await client.ask("status", job_id))["duration_seconds"]
            await client.download(job_id)
            return float(seconds)

        await seconds_of((await one_job(client, server, picture))[0])  # starts the engine
        took = await seconds_of((await one_job(client, server, picture))[0])
        if took < LEAST_SECONDS and not options.quick:
            picture = photos.png(photos.photo(2 * width, 2 * height))

        async def left_alone() -> float:
            job_id, spent = await one_job(client, server, picture)
            alone.append(await seconds_of(job_id))
            idle.append(spent)
            return alone[-1]

        with ExitStack() as stack:
            asked_at = {
                way: stack.enter_context(lower_bound_server(way.lower_bound))
                if way.lower_bound
                else (server.port, server.pid)
                for way in ways
            }
            for _ in range(options.rounds):
                before = await left_alone()
                for way in ways:
                    job_id, spent, asked = await polled_job(
                        client, picture, options.clients, way, *asked_at[way]
                    )
                    seconds = await seconds_of(job_id)
                    after = await left_alone()
                    added = spent if way.lower_bound else spent - statistics.mean(idle[-2:])
                    rounds[way].append(Round((before + after) / 2, seconds, added, asked))
                    before = after
    for way, its_rounds in rounds.items():
        who = f"{options.clients} clients, {way.name}"
        add_figures(report, who, its_rounds, has_target=way.lower_bound is None)
    report.add("the job alone", statistics.median(alone), "s")
    report.details = {
        way.name: [dataclasses.asdict(one) for one in them] for way, them in rounds.items()
    }


def add_figures(report: Report, who: str, rounds: list[Round], *, has_target: bool) -> None:
    """Add the figures of one way of polling; only the service itself has a target."""
    answered = sum(one.asked.answered for one in rounds)
    errors = [error for one in rounds for error in one.asked.errors]
    report.add(f"{who}: errors", len(errors), target=0, note=f"of {answered:,} answers")
    target = SLOWED_BY if has_target and not report.quick else None
    report.add(f"{who}: the job is slowed by",
               100 * (statistics.median(one.polled / one.alone for one in rounds) - 1),
               "%", target=target, sense="under")  # fmt: skip
    every_core = len(os.sched_getaffinity(0)) * statistics.median(one.polled for one in rounds)
    report.add(f"{who}: additional server time, of all cores",
               100 * statistics.median(one.added for one in rounds) / every_core,
               "%")  # fmt: skip
    report.add(f"{who}: client time, of all cores",
               100 * statistics.median(one.asked.processor for one in rounds) / every_core,
               "%")  # fmt: skip
    if slowest := max(one.asked.slowest for one in rounds):
        report.add(f"{who}: slowest answer", 1000 * slowest, "ms")


def main() -> None:
    parser = make_parser("pollers", __doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--every", type=float, nargs="+",
                        help="seconds between a client's requests; 1 and 5, quick: 5")  # fmt: skip
    parser.add_argument("--wait", type=int, default=30, help="seconds for ?wait=")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.every = options.every or ([5.0] if options.quick else [1.0, 5.0])
    report = Report("pollers", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
