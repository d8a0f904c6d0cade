"""A cluster in a storm: many jobs while workers, servers, PostgreSQL, networks and blobs fail.

    python -m bench.cluster [--jobs 500] [--calm 60] [--pause 5] [--blob-seconds 60] [--quick]

Starts PostgreSQL, an S3 server, two API servers and three workers, and counts what a job costs the
database. Then callers submit jobs over both servers, cancel each tenth, and look again and again,
while a worker is killed every few seconds, an API server is restarted, PostgreSQL is killed twice,
a worker's network is cut for two leases, and the S3 server answers each request with an error for a
minute. The history of all answers is checked, and so are the webhooks; their receiver refuses each
third message. As root, the first worker has a network of its own;
elsewhere none is cut.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from bench.report import Report, table
from bench.setup import make_parser
from testkit.cluster import Cluster
from testkit.faulty_s3 import FaultyS3
from testkit.history import History, event_of
from testkit.receiver import Receiver, receiving
from testkit.storm import (
    BLOBS,
    CUTS,
    DATABASES,
    SERVERS,
    WORKERS,
    Picture,
    Storm,
    call,
    cluster_for_storms,
    fickle,
    is_cuttable,
    pictures,
    weather,
)
from upscaled.models.install import install

_PICTURES = 10
_TURNS = (WORKERS, WORKERS, DATABASES, WORKERS, CUTS, WORKERS, SERVERS, WORKERS, DATABASES,
          WORKERS, WORKERS, CUTS, WORKERS, WORKERS)  # fmt: skip


async def the_cost(cluster: Cluster, shown: list[Picture], jobs: int, report: Report) -> None:
    """Count what a job costs the database while nothing fails."""
    history = History()
    before, began = await asyncio.to_thread(_database, cluster), time.monotonic()
    wanted = await call(cluster, history, shown, jobs, cancels=False)
    seconds = time.monotonic() - began
    await asyncio.sleep(1.5)  # statistics reach the table after a second
    after = await asyncio.to_thread(_database, cluster)
    _check(history, wanted)
    asked = (
        sum(
            answer.state in {"queued", "processing", "completed"}
            or answer.state.startswith("listed")
            for answer in history.answers
        )
        / jobs
    )
    transactions, statements, wal = ((b - a) / jobs for a, b in zip(before, after, strict=True))
    note = f"{jobs} jobs in {seconds:.1f} s, two API servers, three workers"
    report.add("transactions of a job", transactions, "", note=note)
    report.add("of these, one for each request of its caller for its state or the list", asked, "")
    report.add("statements of a job, with BEGIN and COMMIT", statements, "")
    report.add("WAL of a job", wal / 1024, "KiB")


def _database(cluster: Cluster) -> tuple[float, float, float]:
    """Return transactions, statements and bytes of WAL so far."""
    ((commits, wal),) = cluster.postgres.execute(
        "SELECT sum(xact_commit)::bigint, "
        "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint "
        "FROM pg_stat_database"
    )
    ((calls,),) = cluster.postgres.execute("SELECT sum(calls)::bigint FROM pg_stat_statements")
    return float(str(commits)), float(str(calls)), float(str(wal))


def _check(history: History, wanted: dict[str, str]) -> None:
    problems = history.problems(wanted)
    if problems:
        raise SystemExit("\n".join([f"{len(problems)} problems", *problems[:20]]))


async def the_storm(
    cluster: Cluster, store: FaultyS3, shown: list[Picture], options: argparse.Namespace,
    receiver: Receiver, report: Report,
) -> None:  # fmt: skip
    """Let everything fail; check what callers and the receiver of webhooks were told."""
    turns = [turn for turn in _TURNS if is_cuttable(cluster) or turn != CUTS]
    storm = Storm(
        cluster, store, pause=options.pause, blob_seconds=options.blob_seconds, turns=turns
    )
    history, began = History(), time.monotonic()
    wanted = await weather(cluster, storm, history, shown, options.jobs, receiver)
    seconds = time.monotonic() - began
    problems = history.problems(wanted)
    untrue = history.message_problems(receiver.requests, receiver.taken)
    events = {event_of(taken) for taken in receiver.taken}
    ends = {answer.job_id: answer.state for answer in history.answers
            if answer.state in {"completed", "cancelled", "failed"}}  # fmt: skip
    refused = dict(history.refusals)
    rows: list[list[object]] = [
        ["accepted jobs", len(wanted)],
        ["seconds", round(seconds)],
        *([what, storm.struck[what]] for what in (WORKERS, CUTS, SERVERS, DATABASES, BLOBS)),
        ["completed / cancelled / failed", " / ".join(
            str(sum(end == state for end in ends.values()))
            for state in ("completed", "cancelled", "failed"))],
        ["answers that were checked", f"{len(history.answers):,}"],
        ["answers 503 or 507, and broken connections",
         f"{sum(n for status, n in refused.items() if status):,} and {refused.get(0, 0):,}"],
        ["answers that can't be", len(problems)],
        ["webhooks: events delivered", f"{len(events):,}"],
        ["messages sent, refused by their receiver, and taken again",
         f"{len(receiver.requests):,}, {len(receiver.requests) - len(receiver.taken):,} and "
         f"{len(receiver.taken) - len(events):,}"],
        ["messages that are lost or can't be", len(untrue)],
    ]  # fmt: skip
    report.table = table(["", ""], rows)
    print(report.table)
    report.add("answers that can't be, of all under faults", len(problems), "", target=0)
    report.add("webhooks that are lost or can't be, of all under faults", len(untrue), "", target=0)
    report.details["refusals"], report.details["problems"] = refused, [*problems, *untrue]
    print(*problems[:20], *untrue[:20], sep="\n")


async def run() -> int:
    parser = make_parser("cluster", __doc__, device=False)
    parser.add_argument("--jobs", type=int, default=0, help="under faults; 500, or 60 with --quick")
    parser.add_argument("--calm", type=int, default=60, help="before, without faults")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two faults")
    parser.add_argument("--blob-seconds", type=float, default=60.0, help="of failing blobs")
    options = parser.parse_args()
    options.jobs = options.jobs or (60 if options.quick else 500)
    report = Report("cluster", options.quick)
    counting = {"shared_preload_libraries": "pg_stat_statements"}
    with tempfile.TemporaryDirectory(prefix="upscaled-bench-") as name:
        folder = Path(name)
        models = folder / "models"
        install(models)
        shown = await pictures(folder, models, _PICTURES)
        async with (
            cluster_for_storms(folder, models, counting) as (cluster, store),
            receiving(fickle()) as receiver,
        ):
            await asyncio.to_thread(cluster.postgres.execute, "CREATE EXTENSION pg_stat_statements")
            await the_cost(cluster, shown, options.calm, report)
            await the_storm(cluster, store, shown, options, receiver, report)
    report.finish()
    return sum(figure.met is False for figure in report.figures)


def main() -> None:
    raise SystemExit(asyncio.run(run()))


if __name__ == "__main__":
    main()
