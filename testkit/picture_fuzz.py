"""Send damaged pictures to a server, and check that it stays healthy.

Each input is a picture of `testkit.zoo` with bytes changed, cut out, doubled or replaced by
another picture's. The server must answer each with 202 or a 4xx status, bring each accepted one to
an end, and have neither more processes nor noticeably more memory afterwards.
`bench.fuzz_pictures` is the command line.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from testkit.server_process import server_process
from testkit.zoo import animals

FIELDS = {"model_name": "realesr-animevideov3", "scale": "2"}
_CLIENTS = 4
_NEEDED = 4
"""Child processes of a server: the engine, and three for imaging (one only for quick work)."""
_MOST_GROWTH = 64 << 20
_WARM_INPUTS = 20  # before the first measurement: caches fill, processes start


@dataclass
class Outcome:
    """What the server answered, and what went wrong."""

    answers: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    """Resident bytes of the server before and after."""
    processes: tuple[int, int] = (0, 0)
    """Child processes of the server at the end, and how many it may have."""
    seconds: float = 0.0


def mutated(files: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one of ``files``, damaged."""
    data = bytearray(chance.choice(files))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        # Half of all changes hit the headers, where the decisions are made.
        end = min(len(data), 200) if chance.random() < 0.5 else len(data)
        place, length = chance.randrange(max(1, end)), chance.choice((1, 1, 2, 4, 64))
        match chance.randrange(6):
            case 0:
                data[place : place + length] = chance.randbytes(length)
            case 1:
                data[place : place + 1] = bytes([1 << chance.randrange(8)])
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                data[place : place + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0")
                )
            case _:
                other = chance.choice(files)
                data[place:] = other[place : place + len(data)]
    return bytes(data[: 1 << 20]) or b"\0"


async def _send(session: aiohttp.ClientSession, url: str, data: bytes, outcome: Outcome) -> None:
    """Submit one input; if it is accepted, wait for its job's end and download the result."""
    form = aiohttp.FormData(FIELDS)
    form.add_field("image", data, filename="x")
    async with session.post(url + "/upscale", data=form) as answer:
        submitted = await answer.json()
    outcome.answers[answer.status] += 1
    if answer.status != 202:
        if answer.status >= 500:
            outcome.problems.append(f"answered with {answer.status}: {submitted}")
        return
    job_id = submitted["job_id"]
    job: dict[str, str] = {"status": "queued"}
    while job["status"] in {"queued", "processing"}:
        async with session.get(f"{url}/status/{job_id}?wait=60") as answer:
            job = await answer.json()
    outcome.ends[job["status"]] += 1
    if "internal error" in job.get("error", ""):
        outcome.problems.append(f"job {job_id}: {job['error']}")
    if job["status"] == "completed":
        async with session.get(f"{url}/download/{job_id}") as answer:
            await answer.read()


async def fuzz(folder: Path, models: Path, *, inputs: int, seed: int) -> Outcome:
    """Run the test; what went wrong is in the outcome's ``problems``."""
    outcome, chance = Outcome(), random.Random(seed)
    files = [animal.data for animal in animals()]
    # A damaged header may claim 60 × 262,401 pixels: a valid job that takes minutes.
    settings = {"limits.max_input_megapixels": 0.05}
    began = time.monotonic()
    async with server_process(folder, models, settings) as server:
        process = psutil.Process(server.pid)
        numbers = iter(range(inputs))
        before = 0

        async def client(session: aiohttp.ClientSession) -> None:
            nonlocal before
            for number in numbers:
                data = mutated(files, chance)
                try:
                    await _send(session, server.url, data, outcome)
                except (aiohttp.ClientError, TimeoutError) as error:
                    kept = folder / f"input-{number}"
                    await asyncio.to_thread(kept.write_bytes, data)
                    outcome.problems.append(f"input {number}: {error!r}")
                if number == min(_WARM_INPUTS, inputs - 1):
                    before = process.memory_info().rss

        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(client(session) for _ in range(_CLIENTS)))
        outcome.memory = before, process.memory_info().rss
        outcome.processes = len(process.children(recursive=True)), _NEEDED
        _, alive = await server.stop()
        outcome.problems += [f"outlived the server: {one}" for one in alive]
    outcome.seconds = time.monotonic() - began
    if outcome.memory[1] - outcome.memory[0] > _MOST_GROWTH:
        outcome.problems.append("the server's memory grew")
    if outcome.processes[0] > outcome.processes[1]:
        outcome.problems.append("the server has more processes than it needs")
    outcome.problems += [f"left behind: {path}" for path in server.files()]
    return outcome


def table(outcome: Outcome) -> str:
    """Return the outcome as a table."""
    before, after = (size >> 20 for size in outcome.memory)
    rows = [
        ("pictures sent", sum(outcome.answers.values())),
        *((f"answered with {status}", n) for status, n in sorted(outcome.answers.items())),
        *((f"jobs that {end}", n) for end, n in sorted(outcome.ends.items())),
        ("server's memory before and after, MiB", f"{before}, {after}"),
        ("server's child processes at the end", outcome.processes[0]),
        ("seconds", round(outcome.seconds)),
        ("problems", len(outcome.problems)),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)
