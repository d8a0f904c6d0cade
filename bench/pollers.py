"""A job on every core while 500 clients ask for its status, against the same job left alone.

    python -m bench.pollers [--clients 500] [--every 1.0] [--quick]

The clients are a process of their own, with a connection each that stays open. They share the
machine with the server, so what they cost themselves slows the job too; their own processor time
is printed beside the server's. Runs with and without them alternate; the median of the ratios
counts.
"""

from __future__ import annotations

import argparse
import asyncio
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


def poll(port: int, clients: int, every: float, pipe: Connection) -> None:
    """Connect, get a path through ``pipe``, ask until told to stop, send an `Asked` back."""
    asked = Asked()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ, connection)
    pipe.send("connected")
    request = f"GET {pipe.recv()} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    began, own = time.monotonic(), time.process_time()
    sent: dict[socket.socket, float] = {}
    number = 0
    asking = True
    selector.register(pipe.fileno(), selectors.EVENT_READ, None)
    while asking:
        now = time.monotonic() - began
        # They take turns, so that questions are spread over the time.
        while number * every / clients <= now:
            connection = connections[number % clients]
            if connection in sent:
                asked.errors.append(f"no answer within {every:g} s")
            else:
                connection.sendall(request)
                sent[connection] = now
            number += 1
        for key, _ in selector.select(number * every / clients - now):
            if key.data is None:
                asking = False
                continue
            answer = key.data.recv(_LONGEST)
            asked.slowest = max(asked.slowest, time.monotonic() - began - sent.pop(key.data, now))
            if answer.startswith(b"HTTP/1.1 200 ") and b'"status"' in answer:
                asked.answered += 1
            else:
                asked.errors.append(answer[:200].decode("utf-8", "replace") or "closed")
                if not answer:
                    selector.unregister(key.data)
    asked.processor = time.process_time() - own
    for connection in connections:
        connection.close()
    pipe.recv()
    pipe.send(asked)


@contextmanager
def pollers(port: int, clients: int, every: float) -> Iterator[Connection]:
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


async def polled_job(
    caller: Caller, server: Server, picture: bytes, clients: int, every: float
) -> tuple[str, float, Asked]:
    """Run a job whose status the clients ask for."""
    with pollers(server.port, clients, every) as pipe:
        before = processor_seconds(server.pid)["server"]
        job_id = await caller.submit(picture, FIELDS)
        pipe.send(f"/api/v1/status/{job_id}")
        await caller.until(job_id)
        spent = processor_seconds(server.pid)["server"] - before
        pipe.send("stop")
        asked: Asked = await asyncio.to_thread(pipe.recv)
    return job_id, spent, asked


async def measure(place: Workplace, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    picture = photos.png(photos.photo(*((800, 600) if options.quick else (1600, 1200))))
    alone: list[float] = []
    polled: list[float] = []
    rounds: list[Asked] = []
    added: list[float] = []
    async with (
        running(place.folder / "server", place.models, place.settings) as server,
        calling(server, poll=1.0) as caller,
    ):

        async def seconds_of(job_id: str) -> float:
            seconds = (await caller.ask("status", job_id))["duration_seconds"]
            await caller.download(job_id)
            return float(seconds)

        await seconds_of((await one_job(caller, server, picture))[0])
        for _ in range(options.rounds):
            job_id, idle = await one_job(caller, server, picture)
            alone.append(await seconds_of(job_id))
            job_id, busy, asked = await polled_job(
                caller, server, picture, options.clients, options.every
            )
            polled.append(await seconds_of(job_id))
            rounds.append(asked)
            added.append(busy - idle)
    answered = sum(asked.answered for asked in rounds)
    errors = [error for asked in rounds for error in asked.errors]
    took = statistics.median(polled)
    who = f"{options.clients} clients, a question every {options.every:g} s"
    report.add(f"{who}: errors", len(errors), target=0, note=f"of {answered:,} answers")
    report.add(f"{who}: the job is slowed by",
               100 * (statistics.median(b / a for a, b in zip(alone, polled, strict=True)) - 1),
               "%", target=SLOWED_BY, sense="under")  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    report.add("of all cores' time, what the server adds for them",
               100 * statistics.median(added) / took / cores, "%")  # fmt: skip
    report.add("of all cores' time, what the clients take themselves",
               100 * statistics.median(one.processor for one in rounds) / took / cores,
               "%")  # fmt: skip
    report.add("slowest answer", 1000 * max(one.slowest for one in rounds), "ms")
    report.add("the job alone", statistics.median(alone), "s")
    report.details = {
        "alone_seconds": alone,
        "polled_seconds": polled,
        "errors": errors[:20],
        "answered": answered,
    }


def main() -> None:
    parser = make_parser("pollers", __doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between a client's")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    report = Report("pollers", options.quick)
    with workplace(options) as place:
        asyncio.run(measure(place, options, report))
    report.finish()


if __name__ == "__main__":
    main()
