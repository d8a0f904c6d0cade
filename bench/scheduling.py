"""Waiting times of a simulated day: the fair order against first come, first served.

    python -m bench.scheduling [--seed N] [--slots N …] [--models-kept N]

A discrete-event simulation around the service's own `JobQueue`: nothing is upscaled, a job holds a
slot for as many seconds as its size needs. As in the service, at most ``slots + 1`` jobs are taken
from the queue a few seconds before a slot is free, and a slot keeps the recently used models
loaded.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import statistics
from collections import Counter, deque
from dataclasses import dataclass

from bench.report import Report, table
from bench.setup import make_parser
from upscaled.jobs.order import LoadedModels, Order, Waiting, make_order
from upscaled.jobs.queue import JobQueue
from upscaled.service.prefetch import AHEAD_SECONDS

DAY = 24 * 3600.0

# Seconds per million source pixels on two cores without a GPU, the tiles' padding included
# (docs/engines.md), and seconds to load each model.
ANIME, PHOTO = "realesr-animevideov3", "realesrgan-x4plus"
RATES = {ANIME: 3.5, PHOTO: 150.0, "realesrgan-x4plus-anime": 45.0, "remacri": 150.0}
LOADS = {ANIME: 0.02, PHOTO: 0.3, "realesrgan-x4plus-anime": 0.15, "remacri": 0.3}
FIXED = 0.03


@dataclass(frozen=True)
class Arrival:
    """A job that arrives: its class, and what the queue knows of it."""

    kind: str
    job: Waiting


def job(
    number: int, kind: str, client: str, moment: float, megapixels: float, model: str
) -> Arrival:
    seconds = FIXED + RATES[model] * megapixels
    return Arrival(kind, Waiting(str(number), moment, seconds, client, model, LOADS[model]))


def a_day(seed: int) -> list[Arrival]:
    """Return a day's jobs in the order in which they arrive."""
    rng = random.Random(seed)
    found: list[Arrival] = []

    def add(kind: str, client: str, moment: float, megapixels: float, model: str) -> None:
        found.append(job(len(found), kind, client, moment, megapixels, model))

    # One client with ten thousand thumbnails from nine in the morning, ten per second.
    for n in range(10_000):
        add("thumbnail", "gallery", 9 * 3600 + n / 10, rng.uniform(0.02, 0.12), ANIME)
    # One client with huge scans, six at a time, three times a day.
    for start in (8.9, 13.0, 16.0):
        for _ in range(6):
            add("huge scan", "archive", start * 3600 + rng.uniform(0, 120), rng.uniform(60, 100),
                ANIME)  # fmt: skip
    # People with a few photos each, at any time from 8:00 to 20:00.
    for person in range(200):
        for _ in range(rng.randint(2, 8)):
            moment = rng.uniform(8, 20) * 3600
            megapixels = min(2.0, rng.lognormvariate(-1.6, 0.7))
            model = rng.choices(list(RATES), [5, 3, 1, 1])[0]
            add("single photo", f"person {person}", moment, megapixels, model)
    # A comic site: batches of thirty pages every two hours.
    for hour in range(0, 24, 2):
        for page in range(30):
            add("comic page", "comics", hour * 3600 + page, rng.uniform(0.3, 0.8), ANIME)
    return sorted(found, key=lambda arrival: arrival.job.created)


@dataclass(frozen=True)
class Simulated:
    """What became of a day."""

    waits: dict[str, float]
    """Seconds from arrival to slot, by job."""
    loads: int
    """How often a network was loaded."""
    loading_seconds: float


async def simulate(day: list[Arrival], order: Order, slots: int, kept: int) -> Simulated:
    """Simulate a day's jobs in an order."""
    queue = JobQueue(order)
    loaded = [LoadedModels(kept) for _ in range(slots)]
    free = list(range(slots))
    ends: list[tuple[float, int]] = []
    ahead: deque[Waiting] = deque()
    waits: dict[str, float] = {}
    loads, loading = 0, 0.0
    now = 0.0

    def next_slot() -> float:
        """Return when a job that is taken now would get a slot."""
        slot_ends = [now] * len(free) + [end for end, _ in ends]
        heapq.heapify(slot_ends)
        for waiting in ahead:
            heapq.heapreplace(slot_ends, slot_ends[0] + waiting.seconds)
        return slot_ends[0]

    coming = deque(day)
    while coming or ends or ahead or len(queue):
        moments = [ends[0][0]] if ends else []
        if ends and ends[0][0] - AHEAD_SECONDS > now:
            moments.append(ends[0][0] - AHEAD_SECONDS)
        if coming:
            moments.append(coming[0].job.created)
        now = min(moments)
        while coming and coming[0].job.created <= now:
            queue.put(coming.popleft().job)
        while ends and ends[0][0] <= now:
            free.append(heapq.heappop(ends)[1])
        while True:
            while len(ahead) < slots + 1 and len(queue) and next_slot() - now <= AHEAD_SECONDS:
                ahead.append(await queue.take())
            if not (free and ahead):
                break
            waiting, slot = ahead.popleft(), free.pop()
            waits[waiting.id] = now - waiting.created
            load = loaded[slot].wait_for(waiting) if kept else waiting.load_seconds
            loaded[slot].use(waiting.model)
            loads, loading = loads + bool(load), loading + load
            heapq.heappush(ends, (now + load + waiting.seconds, slot))
    return Simulated(waits, loads, loading)


def described(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


async def both_orders(
    day: list[Arrival], kinds: dict[str, str], slots: int, kept: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the waiting times by order and class."""
    results = {}
    for order in ("fifo", "fair"):
        waits = (await simulate(day, make_order(order, kept), slots, kept)).waits
        results[order] = {
            kind: described([wait for name, wait in waits.items() if kinds[name] == kind])
            for kind in dict.fromkeys(kinds.values())
        }
    return results


async def run() -> None:
    parser = make_parser("scheduling", __doc__, device=False)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models-kept", type=int, default=3)
    options = parser.parse_args()
    day = a_day(options.seed)
    kinds = {arrival.job.id: arrival.kind for arrival in day}
    counts = Counter(kinds.values())
    report = Report("scheduling", options.quick)
    rows = []
    for slots in options.slots:
        busy = sum(arrival.job.seconds for arrival in day) / slots / DAY
        print(f"{len(day):,} jobs, {slots} slot(s), busy for {busy:.0%} of the day")
        results = await both_orders(day, kinds, slots, options.models_kept)
        rows += [
            [slots, kind, f"{count:,}", order]
            + [f"{value:,.1f} s" for value in results[order][kind].values()]
            for kind, count in counts.items()
            for order in results
        ]
        for kind in counts:
            fair, fifo = results["fair"][kind]["p95"], results["fifo"][kind]["p95"]
            prefix = f"{slots} slots, " if slots > 1 else ""
            report.add(f"{prefix}{kind}: 95 % wait at most", fair, "s",
                       note=f"first come, first served: {fifo:,.1f} s")  # fmt: skip
        report.details[str(slots)] = {"busy": busy, "wait_seconds": results}
    report.details |= {"seed": options.seed, "models_kept": options.models_kept, "jobs": counts}
    report.table = table(["slots", "class", "jobs", "order", "median", "95 %", "max"], rows)
    print(report.table)
    report.finish()


def main() -> None:
    asyncio.run(run())


if __name__ == "__main__":
    main()
