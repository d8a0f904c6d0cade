"""Time of a submission with many records in the store, against one with few.

    python -m bench.submit [--many 10000] [--few 10] [--rounds 40] [--quick]

Two services on the same disk, one with ``--many`` finished jobs in its store, both busy with a slow
job. Submissions of a small picture alternate between them and are cancelled at once. The ratio of
the medians counts (target: at most 1.3).
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from bench.report import Report
from bench.setup import make_parser
from testkit.jobs import make_job
from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_processing
from upscaled.jobs.job import JobState
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.models.install import install

TARGET = 1.3


async def fill(data_dir: Path, count: int) -> None:
    """Put ``count`` records of finished jobs into a new store."""
    data_dir.mkdir(parents=True)
    store = SqliteJobStore(data_dir / "jobs.sqlite3")
    await store.open()
    now = time.time()
    ended = replace(make_job(), state=JobState.COMPLETED, result_gone="downloaded")
    jobs = (make_job() for _ in range(count))
    await asyncio.gather(
        *(
            store.put(replace(ended, id=job.id, created=now - n, finished=now - n))
            for n, job in enumerate(jobs)
        )
    )
    await store.close()


async def measure(many: int, few: int, rounds: int, folder: Path) -> dict[int, list[float]]:
    """Return the seconds of each submission, by the number of records."""
    models = folder / "models"
    await asyncio.to_thread(install, models)
    taken: dict[int, list[float]] = {many: [], few: []}
    async with AsyncExitStack() as stack:
        services, busy = {}, {}
        for count in (many, few):
            data = folder / str(count)
            await fill(data, count)
            if found := sorted(folder.glob("*/models.json")):
                shutil.copy(found[0], data)
            config = make_config(
                data, models, upscaler__threads="1", features__join_identical="false"
            )
            services[count] = await stack.enter_async_context(running(config))
            slow = {"model_name": "realesrgan-x4plus", "scale": "4"}
            job = await submit(services[count], DATA / "astronaut.png", **slow)
            await until_processing(services[count], job.id)
            busy[count] = job.id
        for number in range(rounds + 5):
            for count, service in services.items():
                began = time.perf_counter()
                job = await submit(service, DATA / "chelsea.webp")
                seconds = time.perf_counter() - began
                await service.jobs.cancel(job.id)
                if number >= 5:  # the first few warm up
                    taken[count].append(seconds)
        for count, service in services.items():
            await service.jobs.cancel(busy[count])  # stopping the service would wait for it
    return taken


def main() -> None:
    parser = make_parser("submit", __doc__, device=False)
    parser.add_argument("--many", type=int, help="records; 10,000, quick: 2,000")
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.many = options.many or (2_000 if options.quick else 10_000)
    options.rounds = options.rounds or (10 if options.quick else 40)
    report = Report("submit", options.quick)
    with tempfile.TemporaryDirectory() as folder:
        taken = asyncio.run(measure(options.many, options.few, options.rounds, Path(folder)))
    medians = {count: statistics.median(values) for count, values in taken.items()}
    ratio = medians[options.many] / medians[options.few]
    report.add(f"a submission with {options.many:,} records in the store, against {options.few}",
               ratio, target=TARGET)  # fmt: skip
    for count, median in medians.items():
        report.add(f"a submission with {count:,} records", 1000 * median, "ms")
    report.finish()


if __name__ == "__main__":
    main()
