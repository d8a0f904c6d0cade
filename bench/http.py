"""Requests per second of ``GET /status``, against an empty aiohttp handler.

    python -m bench.http [--seconds 2] [--rounds 5] [--quick]

Both run in one server process, each on its own port; clients in this process keep 16 connections
busy with one request after another. Measurements of the two alternate and their medians are
compared (target: at least 0.6), for a running job and for a finished one, whose record is in the
store.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from bench.report import Report
from bench.setup import make_parser
from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_processing
from upscaled.api.app import make_app
from upscaled.models.install import install

TARGET = 0.6
CONNECTIONS = 16


async def empty(_: web.Request) -> web.Response:
    return web.Response()


async def listen(app: web.Application) -> tuple[web.AppRunner, int]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


async def serve(folder: Path, pipe: Connection) -> None:
    """Serve both, send their ports and the jobs through ``pipe``, and stop on an answer."""
    models = folder / "models"
    await asyncio.to_thread(install, models)
    plain = web.Application()
    plain.router.add_get("/", empty)
    config = make_config(
        folder / "data", models, upscaler__threads="1", features__join_identical="false"
    )
    async with running(config) as service:
        small = await submit(service, DATA / "chelsea.webp")
        await service.jobs.wait(small.id)
        # A running job on one thread: the other cores are for the server and the clients.
        held = await submit(service, DATA / "astronaut.png", model_name="realesrgan-x4plus",
                            scale="4")  # fmt: skip
        await until_processing(service, held.id)
        runners = [await listen(plain), await listen(make_app(service))]
        pipe.send(([port for _, port in runners], held.id, small.id))
        await asyncio.to_thread(pipe.recv)
        await service.jobs.cancel(held.id)
        for runner, _ in runners:
            await runner.cleanup()


def server(folder: str, pipe: Connection) -> None:
    asyncio.run(serve(Path(folder), pipe))


async def rate(port: int, path: str, seconds: float) -> float:
    """Return how many requests per second are answered with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    answered = 0
    end = time.perf_counter() + seconds

    async def call() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            answered += 1
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CONNECTIONS)))
    return answered / (time.perf_counter() - began)


async def measure(
    ports: list[int], paths: dict[str, tuple[int, str]], seconds: float, rounds: int
) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, (which, path) in paths.items():
            measured = await rate(ports[which], path, seconds)
            if number:  # the first warms up
                rates[name].append(measured)
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    parser = make_parser("http", __doc__, device=False)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.seconds = options.seconds or (0.5 if options.quick else 2.0)
    report = Report("http", options.quick)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=server, args=(folder, theirs))
        process.start()
        try:
            ports, under_way, ended = ours.recv()
            paths = {
                "empty handler": (0, "/"),
                "a running job": (1, f"/api/v1/status/{under_way}"),
                "a finished job": (1, f"/api/v1/status/{ended}"),
            }
            rates = asyncio.run(measure(ports, paths, options.seconds, options.rounds))
        finally:
            ours.send("stop")
            process.join()
    bare = rates.pop("empty handler")
    for name, value in rates.items():
        report.add(f"rate of `GET /status` of {name} against an empty handler",
                   value / bare, target=TARGET, sense="at least")  # fmt: skip
    for name, value in {"an empty handler": bare, **rates}.items():
        report.add(f"requests for {name}", value, "per second")
    report.finish()


if __name__ == "__main__":
    main()
