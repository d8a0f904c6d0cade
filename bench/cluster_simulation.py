"""Simulated clusters: faults for thousands of hours, a day in another order, a million an hour.

    python -m bench.cluster_simulation [--hours N] [--seed N]

First, clusters of four workers run on a virtual clock (`testkit.simulated_cluster`), each with
another seed, while workers die, are cut off or stopped, the database restarts, the blobs are slow
and the clock jumps. A run that breaks a rule names its seed; ``--seed N --hours 20`` repeats it.
Second, the day of `bench.scheduling` in the order of a cluster, and in that of one machine; and
what it saves that workers prefer jobs of loaded networks. Third, what a million pictures an hour
take, from the cost of a job that `bench.cluster` measured.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from bench.report import Report, table
from bench.scheduling import a_day, described, simulate
from bench.setup import make_parser
from testkit.simulated_cluster import SimulatedCluster
from testkit.simulated_parts import Settings, StartTags, TagQueue
from upscaled.cluster.preference import Preference
from upscaled.jobs.order import LoadedModels, Order, Waiting, make_order

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


class ClusterOrder:
    """Waiting jobs by start tag and priority, as the database gives them to a worker.

    Args:
        kept: networks that the worker keeps loaded, whose jobs it prefers; 0: it prefers none.
    """

    def __init__(self, kept: int) -> None:
        self._tags = StartTags()
        self._queue = TagQueue()
        self._preference = Preference(LoadedModels(kept)) if kept else None
        self._jobs: dict[int, tuple[float, Waiting]] = {}
        self._numbers: dict[str, int] = {}
        self._loads: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, job: Waiting) -> None:
        tag, number = self._tags.start(job.client, job.seconds), len(self._jobs)
        self._jobs[number] = tag, job
        self._numbers[job.id] = number
        self._loads[job.model] = {job.model: job.load_seconds}
        self._queue.put(number, job.model, tag)

    def remove(self, job_id: str) -> bool:
        return self._queue.remove(self._numbers[job_id])

    def pop(self) -> Waiting:
        delays = self._preference.delays(self._loads) if self._preference else {}
        number, ahead = self._queue.take(delays)
        tag, job = self._jobs[number]
        self._tags.served(tag)
        if self._preference:
            self._preference.took(job.model, job.seconds, ahead=ahead)
        return job

    def head(self) -> Waiting | None:
        return next(iter(self.ahead()), None)

    def ahead(self) -> list[Waiting]:
        return [self._jobs[number][1] for number in self._queue.ahead()]


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
        orders: dict[str, Order] = {
            "one machine": make_order("fair", _KEPT),
            "cluster, nothing preferred": ClusterOrder(0),
            "cluster": ClusterOrder(_KEPT),
        }
        for name, order in orders.items():
            done = await simulate(day, order, slots, _KEPT)
            print(f"{slots} slots, {name}: {done.loads:,} loads, {done.loading_seconds:.0f} s")
            report.add(f"{slots} slots, {name}: loads of networks", done.loads, "",
                       note=f"{done.loading_seconds:.0f} s")  # fmt: skip
            for kind in dict.fromkeys(kinds.values()):
                waits = [wait for job, wait in done.waits.items() if kinds[job] == kind]
                found = described(waits)
                rows.append([slots, kind, name, *(f"{v:,.1f} s" for v in found.values())])
                report.details[f"{slots} slots, {kind}, {name}"] = found
    return rows


def preferences(report: Report, hours: float) -> None:
    """Simulate clusters without faults whose workers prefer loaded networks, and that do not.

    Args:
        report: takes the figures.
        hours: of each of three clusters.
    """
    rows: list[list[object]] = []
    for load in (0.6, 1.2, 1.8):  # of one job at a time; workers of the model do two
        for prefers in (False, True):
            settings = Settings(
                hours=hours, load=load, prefers=prefers,
                death=1e12, cut=1e12, restart=1e12, slow_blobs=1e12, jump=1e12,
            )  # fmt: skip
            runs = [SimulatedCluster(seed, settings).run() for seed in (1, 2, 3)]
            jobs = [job for run in runs for job in run.jobs]
            waits = [job.taken - job.created for job in jobs if job.taken is not None]
            workers = [worker for run in runs for worker in run.workers]
            loads = sum(worker.loads for worker in workers) / len(jobs)
            seconds = sum(worker.loading_seconds for worker in workers) / len(jobs)
            found = described(waits)
            name = "preferred" if prefers else "not preferred"
            rows.append([f"{load / 2:.0%}", name, f"{loads:.2f}", f"{seconds:.2f} s",
                         *(f"{v:,.1f} s" for v in found.values())])  # fmt: skip
            report.add(f"busy {load / 2:.0%}, loaded networks {name}: loads a job", loads, "",
                       note=f"{seconds:.2f} s a job")  # fmt: skip
            report.details[f"busy {load / 2:.0%}, {name}"] = found
    print(table(["busy", "loaded networks", "loads a job", "loading", "median", "95 %", "max"],
                rows))  # fmt: skip


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
    preferences(report, 10 if options.quick else 50)
    a_million(report)
    report.table = table(["slots", "class", "order", "median", "95 %", "max"], rows)
    print(report.table)
    report.finish()


def main() -> None:
    asyncio.run(run())


if __name__ == "__main__":
    main()
