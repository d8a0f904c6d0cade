"""A job on every core while 500 clients ask for its status, against the same job left alone.

    python -m bench.pollers [--clients 500] [--every 1 5] [--wait 30] [--quick]

They ask at intervals, and with ``?wait=``, which has the answer wait for the job's end. The clients
are a process of their own, with a connection each that stays open. They share the machine with the
server, so what they cost themselves slows the job too; their own processor time is printed beside
the server's. What no service could be cheaper than: the same questions, at the shortest interval,
put to a process that has nothing but an empty aiohttp handler, and to one that has not even that
and sends the same bytes to whoever sends any. Before and after each job that is asked for, one is
left alone; its time is held against the mean of those two, since machines change their pace from
minute to minute, and the median of these ratios counts. A quick run has a question every 5 s and
``?wait=`` only, and reaches no target in its single round.
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

from bench import photos
from bench.client import FAST, Client, connect
from bench.report import Report
from bench.workplace import Workplace, make_parser, workplace
from testkit.server_process import ServerProcess, server_process

SLOWED_BY = 5.0
LEAST_SECONDS = 3.0
"""A job that takes less is given a larger picture: its few questions would tell little."""
FIELDS = {"model_name": FAST, "scale": "4", "format": "jpeg"}
Floor = Callable[[Connection], None]
"""A process's target: tells its port through the pipe, and serves until it is sent something."""

_LONGEST = 64 * 1024
_ENDED_SECONDS = 5


@dataclass
class Asked:
    """What the clients found."""

    answered: int = 0
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds of the slowest answer."""
    processor: float = 0.0
    """Seconds of processor time that the clients took."""


@dataclass(frozen=True)
class Way:
    """How the clients ask."""

    name: str
    every: float | None
    """Seconds between a client's questions; None: the next as soon as the last is answered."""
    query: str = ""
    floor: Floor | None = None
    """They ask this process instead, which knows of no jobs."""


@dataclass(frozen=True)
class Round:
    """A job that was asked for, and those left alone before and after it."""

    alone: float
    """Seconds, their mean."""
    asked_for: float
    """Seconds."""
    added: float
    """Seconds of processor time that the server spent more."""
    asked: Asked


def poll(port: int, clients: int, every: float | None, pipe: Connection) -> None:
    """Connect, get a path through ``pipe``, ask until told to stop, send an `Asked` back.

    Each client asks ``every`` so many seconds, or, with None, again as soon as it has an answer
    that is not the last one.
    """
    asked = Asked()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    pipe.send("connected")
    request = f"GET {pipe.recv()} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    began, own = time.monotonic(), time.process_time()
    # They take turns, so that questions are spread over the time.
    due = [((every or 1.0) * number / clients, number) for number in range(clients)]
    sent = [0.0] * clients
    for number, connection in enumerate(connections):
        selector.register(connection, selectors.EVENT_READ, number)
    selector.register(pipe.fileno(), selectors.EVENT_READ, None)
    asking = True
    unanswered: set[int] = set()
    # Who waits for the job's end is still to be answered when the job has ended.
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
    """Serve an empty handler, tell its port through ``pipe``, until there is an answer to that."""

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
    """Be the floor that is an empty aiohttp handler."""
    asyncio.run(answer_nothing(pipe))


def bare_sockets(pipe: Connection) -> None:
    """Be the floor below: answer whatever arrives with the same bytes, HTTP in name only."""
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
def floor_server(floor: Floor) -> Iterator[tuple[int, int]]:
    """Have a floor's process for the length of the block; yield port and pid."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=floor, args=(theirs,), daemon=True)
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
    """Have the clients' process, connected, for the length of the block."""
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
    """Return the seconds of processor time that a process itself has taken."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def one_job(client: Client, server: ServerProcess, picture: bytes) -> tuple[str, float]:
    """Run a job nobody asks for; return it and the server process's seconds of processor time."""
    before = own_seconds(server.pid)
    job_id = await client.submit(picture, FIELDS)
    await client.until(job_id)
    return job_id, own_seconds(server.pid) - before


async def asked_job(
    client: Client, picture: bytes, clients: int, way: Way, port: int, pid: int
) -> tuple[str, float, Asked]:
    """Run a job whose status the clients ask for at ``port``, which is the process ``pid``'s."""
    with pollers(port, clients, way.every) as pipe:
        before = own_seconds(pid)
        job_id = await client.submit(picture, FIELDS)
        pipe.send("/" if way.floor else f"/api/v1/status/{job_id}{way.query}")
        await client.until(job_id)
        spent = own_seconds(pid) - before
        pipe.send("stop")
        asked: Asked = await asyncio.to_thread(pipe.recv)
    return job_id, spent, asked


async def measure(place: Workplace, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    width, height = (800, 600) if options.quick else (1200, 900)
    picture = photos.png(photos.photo(width, height))
    shortest = min(options.every)
    ways = [
        *(Way(f"a question every {every:g} s", every) for every in options.every),
        Way(f"each waits for the end, {options.wait} s at most", None, f"?wait={options.wait}"),
    ]
    if not options.quick:
        asks = f"a question every {shortest:g} s"
        ways += [
            Way(f"{asks} to an empty aiohttp handler", shortest, floor=empty_handler),
            Way(f"{asks} to bare sockets", shortest, floor=bare_sockets),
        ]
    alone: list[float] = []
    idle: list[float] = []
    rounds: dict[Way, list[Round]] = {way: [] for way in ways}
    async with (
        server_process(place.folder / "server", place.models, place.settings) as server,
        connect(server) as client,
    ):

        async def seconds_of(job_id: str) -> float:
            seconds = (await client.ask("status", job_id))["duration_seconds"]
            await client.download(job_id)
            return float(seconds)

        await seconds_of((await one_job(client, server, picture))[0])  # it starts the engine
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
                way: stack.enter_context(floor_server(way.floor))
                if way.floor
                else (server.port, server.pid)
                for way in ways
            }
            for _ in range(options.rounds):
                before = await left_alone()
                for way in ways:
                    job_id, spent, asked = await asked_job(
                        client, picture, options.clients, way, *asked_at[way]
                    )
                    seconds = await seconds_of(job_id)
                    after = await left_alone()
                    added = spent if way.floor else spent - statistics.mean(idle[-2:])
                    rounds[way].append(Round((before + after) / 2, seconds, added, asked))
                    before = after
    for way, them in rounds.items():
        tell(report, f"{options.clients} clients, {way.name}", them, goal=way.floor is None)
    report.add("the job alone", statistics.median(alone), "s")
    report.details = {
        way.name: [dataclasses.asdict(one) for one in them] for way, them in rounds.items()
    }


def tell(report: Report, who: str, rounds: list[Round], *, goal: bool) -> None:
    """Add what came of one way of asking, and whether it had to reach the target."""
    answered = sum(one.asked.answered for one in rounds)
    errors = [error for one in rounds for error in one.asked.errors]
    report.add(f"{who}: errors", len(errors), target=0, note=f"of {answered:,} answers")
    target = SLOWED_BY if goal and not report.quick else None
    report.add(f"{who}: the job is slowed by",
               100 * (statistics.median(one.asked_for / one.alone for one in rounds) - 1),
               "%", target=target, sense="under")  # fmt: skip
    every_core = len(os.sched_getaffinity(0)) * statistics.median(one.asked_for for one in rounds)
    report.add(f"{who}: of all cores' time, what the server takes more",
               100 * statistics.median(one.added for one in rounds) / every_core,
               "%")  # fmt: skip
    report.add(f"{who}: of all cores' time, what the clients take",
               100 * statistics.median(one.asked.processor for one in rounds) / every_core,
               "%")  # fmt: skip
    if slowest := max(one.asked.slowest for one in rounds):
        report.add(f"{who}: slowest answer", 1000 * slowest, "ms")


def main() -> None:
    parser = make_parser("pollers", __doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--every", type=float, nargs="+",
                        help="seconds between a client's questions; 1 and 5, quick: 5")  # fmt: skip
    parser.add_argument("--wait", type=int, default=30, help="seconds that an answer may wait")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.every = options.every or ([5.0] if options.quick else [1.0, 5.0])
    report = Report("pollers", options.quick)
    with workplace(options) as place:
        asyncio.run(measure(place, options, report))
    report.finish()


if __name__ == "__main__":
    main()
