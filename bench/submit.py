"""What a submission costs with many records in the store, against one with few.

    python -m bench.submit [--many 10000] [--few 10] [--rounds 40]

Two services on the same disk, one with ``--many`` ended jobs in its store, both busy with a slow
job; submissions of a small picture go to them by turns and are cancelled at once. Prints the ratio
of the medians (target: 1.3 at most), writes ``bench/results/submit.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from tests.making import make_job
from tests.services import PHOTOS, make_config, running, submit, until_processing
from upscaled.jobs import JobState
from upscaled.model_install import install
from upscaled.store.sqlite import SqliteJobStore

RESULTS = Path(__file__).parent / "results" / "submit.json"
TARGET = 1.3


async def fill(data_dir: Path, count: int) -> None:
    """Put ``count`` records of ended jobs into a fresh store."""
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
        services = {}
        for count in (many, few):
            data = folder / str(count)
            await fill(data, count)
            if found := sorted(folder.glob("*/models.json")):
                shutil.copy(found[0], data)
            services[count] = await stack.enter_async_context(
                running(make_config(data, models, upscaler__threads="1"))
            )
            slow = {"model_name": "realesrgan-x4plus", "scale": "4"}
            job = await submit(services[count], PHOTOS / "astronaut.png", **slow)
            await until_processing(services[count], job.id)
        for number in range(rounds + 5):
            for count, service in services.items():
                began = time.perf_counter()
                job = await submit(service, PHOTOS / "chelsea.webp")
                seconds = time.perf_counter() - began
                await service.cancel(job.id)
                if number >= 5:  # the first few warm up
                    taken[count].append(seconds)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.submit", description=__doc__)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        taken = asyncio.run(measure(options.many, options.few, options.rounds, Path(folder)))
    medians = {count: statistics.median(values) for count, values in taken.items()}
    ratio = medians[options.many] / medians[options.few]
    print("| records | median of a submission |\n|---|---|")
    for count, median in medians.items():
        print(f"| {count:,} | {median * 1000:.1f} ms |")
    print(f"\nratio {ratio:.2f} (target: {TARGET} at most)")
    RESULTS.parent.mkdir(exist_ok=True)
    document = {"median_seconds": medians, "ratio": ratio, "target": TARGET}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
