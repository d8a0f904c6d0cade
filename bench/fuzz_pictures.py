"""Sends pictures with changed bytes to a server, and looks whether it stays well.

    python -m bench.fuzz_pictures --inputs 5000 --seed 1

The pictures are those of the zoo in ``tests/imaging``. Each input is one of them with bytes
changed, cut out, doubled or swapped with another's. The server must answer each with 202 or a 4xx,
bring each accepted one to an end, and have neither more processes nor noticeably more memory
afterwards. Exit status 1 when that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from testkit.server import Server
from testkit.zoo import animals
from upscaled.models.install import install

FIELDS = {"model_name": "realesr-animevideov3", "scale": "2"}
_AT_ONCE = 4
_NEEDED = 4
"""Children of a server: the engine, two imaging processes and one for what must be quick."""
_MOST_GROWTH = 64 << 20
_WARM_INPUTS = 20  # before the first measurement: caches fill, processes start
_PATIENCE = 0.05


@dataclass
class Outcome:
    """What came of it."""

    answers: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    """Resident bytes of the server before and after."""
    processes: tuple[int, int] = (0, 0)
    """Children of the server at the end, and how many it may have."""
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


async def _one(session: aiohttp.ClientSession, url: str, data: bytes, outcome: Outcome) -> None:
    while True:
        form = aiohttp.FormData(FIELDS)
        form.add_field("image", data, filename="x")
        async with session.post(url + "/upscale", data=form) as answer:
            told = await answer.json()
        if told.get("code") != "queue_full":
            break
        await asyncio.sleep(_PATIENCE)
    outcome.answers[answer.status] += 1
    if answer.status != 202:
        if answer.status >= 500:
            outcome.complaints.append(f"answered with {answer.status}: {told}")
        return
    while True:
        async with session.get(f"{url}/status/{told['job_id']}") as answer:
            status = await answer.json()
        if status["status"] in {"completed", "failed"}:
            break
        await asyncio.sleep(_PATIENCE)
    outcome.ends[status["status"]] += 1
    if "internal error" in status.get("error", ""):
        outcome.complaints.append(f"job {told['job_id']}: {status['error']}")
    if status["status"] == "completed":
        async with session.get(f"{url}/download/{told['job_id']}") as answer:
            await answer.read()


async def fuzz(folder: Path, models: Path, *, inputs: int, seed: int) -> Outcome:
    """Do it; what went wrong is in the outcome's ``complaints``."""
    outcome, chance = Outcome(), random.Random(seed)
    files = [animal.data for animal in animals()]
    # A header that says 60 × 262,401 may be believed, and is minutes of honest work.
    server = Server(folder, models, {"limits.max_input_megapixels": 0.05})
    began = time.monotonic()
    await server.start()
    await server.answers()
    process = psutil.Process(server.pid)
    left = iter(range(inputs))
    before = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal before
        for number in left:
            data = mutated(files, chance)
            try:
                await _one(session, server.url, data, outcome)
            except (aiohttp.ClientError, TimeoutError) as error:
                kept = folder / f"input-{number}"
                await asyncio.to_thread(kept.write_bytes, data)
                outcome.complaints.append(f"input {number}: {error!r}")
            if number == min(_WARM_INPUTS, inputs - 1):
                before = process.memory_info().rss

    try:
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(client(session) for _ in range(_AT_ONCE)))
        outcome.memory = before, process.memory_info().rss
        # Two for imaging, one for the engine.
        outcome.processes = len(process.children(recursive=True)), _NEEDED
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            _, alive = await server.stop()
            outcome.complaints += [f"outlived the server: {one}" for one in alive]
    outcome.seconds = time.monotonic() - began
    if outcome.memory[1] - outcome.memory[0] > _MOST_GROWTH:
        outcome.complaints.append("the server's memory grew")
    if outcome.processes[0] > outcome.processes[1]:
        outcome.complaints.append("the server has more processes than it needs")
    outcome.complaints += [f"left behind: {path}" for path in server.files()]
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
        ("complaints", len(outcome.complaints)),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    os.environ.pop("UPSCALED_CONFIG", None)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        outcome = asyncio.run(fuzz(Path(folder), models, inputs=options.inputs, seed=options.seed))
    print(table(outcome))
    print("\n".join(outcome.complaints[:50]))
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
