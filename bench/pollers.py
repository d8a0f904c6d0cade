"""A job on every core while 500 clients ask for its status, against the same job left alone.

    python -m bench.pollers [--clients 500] [--every 1.0] [--wait 30] [--quick]

They ask in two ways: at intervals, and with ``?wait=``, which has the answer wait for the job's
end. The clients are a process of their own, with a connection each that stays open. They share the
machine with the server, so what they cost themselves slows the job too; their own processor time
is printed beside the server's. Runs with and without them alternate; the median of the ratios
counts.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from bench import photos
from bench.caller import FAST, Caller, calling
from bench.memory import processor_seconds
from bench.report import Report
from bench.server import Server, running
from bench.workplace import Workplace, make_parser, workplace

SLOWED_BY = 5.0
FIELDS = {"model_name": FAST, "scale": "4", "format": "jpeg"}
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
    query: str


@dataclass(frozen=True)
class Round:
    """A job left alone and one that was asked for."""

    alone: float
    asked_for: float
    """Seconds, both of them."""
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
    due = [(number / clients, number) for number in range(clients)]
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


async def one_job(caller: Caller, server: Server, picture: bytes) -> tuple[str, float]:
    """Run a job nobody asks for; return it and the server process's seconds of processor time."""
    before = processor_seconds(server.pid)["server"]
    job_id = await caller.submit(picture, FIELDS)
    await caller.until(job_id)
    return job_id, processor_seconds(server.pid)["server"] - before


async def asked_job(
    caller: Caller, server: Server, picture: bytes, clients: int, way: Way
) -> tuple[str, float, Asked]:
    """Run a job whose status the clients ask for."""
    with pollers(server.port, clients, way.every) as pipe:
        before = processor_seconds(server.pid)["server"]
        job_id = await caller.submit(picture, FIELDS)
        pipe.send(f"/api/v1/status/{job_id}{way.query}")
        await caller.until(job_id)
        spent = processor_seconds(server.pid)["server"] - before
        pipe.send("stop")
        asked: Asked = await asyncio.to_thread(pipe.recv)
    return job_id, spent, asked


async def measure(place: Workplace, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    picture = photos.png(photos.photo(*((800, 600) if options.quick else (1600, 1200))))
    ways = [
        Way(f"a question every {options.every:g} s", options.every, ""),
        Way(f"each waits for the end, {options.wait} s at most", None, f"?wait={options.wait}"),
    ]
    alone: list[float] = []
    rounds: dict[Way, list[Round]] = {way: [] for way in ways}
    async with (
        running(place.folder / "server", place.models, place.settings) as server,
        calling(server) as caller,
    ):

        async def seconds_of(job_id: str) -> float:
            seconds = (await caller.ask("status", job_id))["duration_seconds"]
            await caller.download(job_id)
            return float(seconds)

        await seconds_of((await one_job(caller, server, picture))[0])
        for _ in range(options.rounds):
            job_id, idle = await one_job(caller, server, picture)
            alone.append(await seconds_of(job_id))
            for way in ways:
                job_id, busy, asked = await asked_job(caller, server, picture, options.clients, way)
                seconds = await seconds_of(job_id)
                rounds[way].append(Round(alone[-1], seconds, busy - idle, asked))
    for way, them in rounds.items():
        tell(report, f"{options.clients} clients, {way.name}", them)
    report.add("the job alone", statistics.median(alone), "s")
    report.details = {
        way.name: [dataclasses.asdict(one) for one in them] for way, them in rounds.items()
    }


def tell(report: Report, who: str, rounds: list[Round]) -> None:
    """Add what came of one way of asking."""
    answered = sum(one.asked.answered for one in rounds)
    errors = [error for one in rounds for error in one.asked.errors]
    report.add(f"{who}: errors", len(errors), target=0, note=f"of {answered:,} answers")
    report.add(f"{who}: the job is slowed by",
               100 * (statistics.median(one.asked_for / one.alone for one in rounds) - 1),
               "%", target=SLOWED_BY, sense="under")  # fmt: skip
    every_core = len(os.sched_getaffinity(0)) * statistics.median(one.asked_for for one in rounds)
    report.add(f"{who}: of all cores' time, what the server adds",
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
    parser.add_argument("--every", type=float, default=1.0, help="seconds between a client's")
    parser.add_argument("--wait", type=int, default=30, help="seconds that an answer may wait")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    report = Report("pollers", options.quick)
    with workplace(options) as place:
        asyncio.run(measure(place, options, report))
    report.finish()


if __name__ == "__main__":
    main()
