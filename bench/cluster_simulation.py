"""Simulated clusters: faults for thousands of hours, a day in another order, a million an hour.

    python -m bench.cluster_simulation [--hours N] [--seed N]

First, clusters of four workers run on a virtual clock (`testkit.simulated_cluster`), each with
another seed, while workers die, are cut off or stopped, the database restarts, the blobs are slow
and the clock jumps. A run that breaks a rule names its seed; ``--seed N --hours 20`` repeats it.
Second, the day of `bench.scheduling` in the order of a cluster, and in that of one machine. Third,
what a million pictures an hour take, from the cost of a job that `bench.cluster` measured.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter

from bench.report import Report, table
from bench.scheduling import a_day, described, simulate
from bench.setup import make_parser
from testkit.simulated_cluster import SimulatedCluster
from testkit.simulated_parts import Settings, StartTags
from upscaled.cluster import work_queue
from upscaled.jobs.order import Waiting, make_order

HOURS_A_RUN = 20.0
_HARSH = Settings(hours=HOURS_A_RUN, death=1800, cut=1800, restart=3600, slow_blobs=3600, jump=7200)
_KEPT = 3
"""Models that a slot keeps loaded, as in `bench.scheduling`."""

# What a job costs the database (docs/scaling.md): `bench.cluster` and `bench.cluster_database`.
_WRITES, _LOOKS = 4, 9
_TOLD = 3
"""Notifications that servers hear of a job: it is added, begun, ended."""
_PROGRESS = 3
"""The same of its progress, at most, in a second of work."""
_WAL_KIB = 9.6
_LEASE = 30.0
_BEATS = 4 / 0.9
"""Heartbeats in a lease, on average."""

# Assumptions, not prices of anybody. Money an hour, a GB or a million requests.
_WORKER_HOUR, _SERVER_HOUR, _DATABASE_HOUR = 0.5, 0.2, 2.0
_EGRESS_GB, _KEPT_GB_MONTH = 0.05, 0.02
_PUT_MILLION, _GET_MILLION = 5.0, 0.4


class TagQueue:
    """Waiting jobs by start tag and priority, as the database gives them to workers."""

    def __init__(self) -> None:
        self._tags = StartTags()
        self._heap: list[tuple[int, int, float, Waiting]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, job: Waiting) -> None:
        tag = self._tags.start(job.client, job.seconds)
        self._count += 1
        heapq.heappush(self._heap, (-work_queue.priority(tag), self._count, tag, job))

    def remove(self, job_id: str) -> bool:
        kept = [entry for entry in self._heap if entry[3].id != job_id]
        gone = len(kept) < len(self._heap)
        heapq.heapify(kept)
        self._heap = kept
        return gone

    def pop(self) -> Waiting:
        if not self._heap:
            raise IndexError("no job is waiting")
        _, _, tag, job = heapq.heappop(self._heap)
        self._tags.served(tag)
        return job

    def head(self) -> Waiting | None:
        return self._heap[0][3] if self._heap else None

    def ahead(self) -> list[Waiting]:
        return [entry[3] for entry in sorted(self._heap)]


def faults(report: Report, hours: float, first: int) -> None:
    """Simulate clusters that fail in many ways."""
    began, runs = time.perf_counter(), max(1, round(hours / HOURS_A_RUN))
    struck: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    stale = lost = 0
    for seed in range(first, first + runs):
        run = SimulatedCluster(seed, _HARSH).run()
        struck += run.faults
        ends += Counter(job.state for job in run.jobs)
        stale += run.stale_writes
        lost += sum(job.crashes for job in run.jobs)
    seconds = time.perf_counter() - began
    note = (
        f"{sum(ends.values()):,} jobs, {sum(struck.values()):,} faults, {lost:,} leases lost, "
        f"{stale:,} writes refused, in {seconds:.0f} s"
    )
    print(f"{runs * HOURS_A_RUN:,.0f} h: {note}")
    report.add("simulated hours without a broken rule", runs * HOURS_A_RUN, "h", note=note)
    report.details["faults"] = {"struck": struck, "ends": ends, "lost": lost, "stale": stale}


async def the_day(report: Report, seed: int) -> list[list[object]]:
    """Simulate the day of `bench.scheduling` in both orders."""
    day = a_day(seed)
    kinds = {arrival.job.id: arrival.kind for arrival in day}
    rows: list[list[object]] = []
    for slots in (1, 2):
        for name, order in (("one machine", make_order("fair", _KEPT)), ("cluster", TagQueue())):
            waits = await simulate(day, order, slots, _KEPT)
            for kind in dict.fromkeys(kinds.values()):
                found = described([wait for job, wait in waits.items() if kinds[job] == kind])
                rows.append([slots, kind, name, *(f"{v:,.1f} s" for v in found.values())])
                report.details[f"{slots} slots, {kind}, {name}"] = found
    return rows


def a_million(report: Report) -> None:
    """Compute what a million pictures an hour take, with a second of a device for each."""
    jobs = 1e6 / 3600
    workers = jobs / 0.7  # busy for 70 % of the time, so that a queue stays short
    servers = 8
    members = servers + workers
    add = report.add
    add("workers for a million pictures an hour, of 1 s each", workers, "")
    add("transactions that write, then", jobs * _WRITES, "1/s")
    add("looks of callers, then", jobs * _LOOKS, "1/s")
    add("heartbeats and looks at others, then", 2 * members * _BEATS / _LEASE, "1/s")
    add("questions of workers, then", workers, "1/s", note="each once a second, at most")
    add("notifications, then", jobs * (_TOLD + _PROGRESS), "1/s", note="at most")
    add("sessions that one notification wakes, then", servers, "")
    add("WAL, then", jobs * _WAL_KIB / 1024, "MiB/s")
    add(
        "connections to PostgreSQL, then",
        members + 2 * servers,
        "",
        note="one of each member; each API server has one that listens and one that leads",
    )
    add("traffic of the blobs, then", jobs * (2 * 1 + 3 * 4), "MB/s",
        note="1 MB put and fetched; 4 MB put, read back and downloaded")  # fmt: skip
    costs = {
        "workers": workers * _WORKER_HOUR,
        "API servers": servers * _SERVER_HOUR,
        "PostgreSQL with a synchronous standby": 2 * _DATABASE_HOUR,
        "egress of the results, 4 TB": 4000 * _EGRESS_GB,
        "requests of the blobs, 2 that write and 3 that read": 2 * _PUT_MILLION + 3 * _GET_MILLION,
        "a day's files": 5000 * 24 * _KEPT_GB_MONTH / 730,
    }
    for what, money in costs.items():
        add(f"{what}, at assumed prices", money, "an hour")
    add("all of it, at assumed prices", sum(costs.values()), "an hour")


async def run() -> None:
    parser = make_parser("cluster_simulation", __doc__, device=False)
    parser.add_argument("--hours", type=float, default=0.0, help="2000, or 40 with --quick")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = Report("cluster_simulation", options.quick)
    faults(report, options.hours or (40 if options.quick else 2000), options.seed)
    rows = await the_day(report, 5)
    a_million(report)
    report.table = table(["slots", "class", "order", "median", "95 %", "max"], rows)
    print(report.table)
    report.finish()


def main() -> None:
    asyncio.run(run())


if __name__ == "__main__":
    main()
