"""Error of the estimated job time after ten jobs of mixed sizes.

    python -m bench.estimates [--model realesr-animevideov3] [--learn 10] [--asked 15] [--quick]

Pictures of mixed sizes go through the real service one at a time; before each, the estimate is
recorded. The median error of the jobs after the first ten counts (target: under 25 %).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from bench.report import Report, table
from bench.setup import make_parser
from testkit.paths import DATA
from testkit.services import make_config, running, submit
from upscaled.models.install import install

TARGET = 25.0


async def measure(model: str, count: int, folder: Path, seed: int) -> list[tuple[float, float]]:
    """Return the estimated and the actual seconds of each job, from submission to result."""
    rng = random.Random(seed)
    models = folder / "models"
    await asyncio.to_thread(install, models)
    photo = Image.open(DATA / "coffee.jpg").convert("RGB")
    pairs = []
    config = make_config(folder / "data", models, features__join_identical="false")
    async with running(config) as service:
        for _ in range(count):
            share = rng.uniform(0.1, 1.4)
            size = (int(photo.width * share), int(photo.height * share))
            picture = folder / "picture.png"
            photo.resize(size).save(picture)
            fields = {"input_width": str(size[0]), "input_height": str(size[1])}
            _, quote = await service.submissions.quote(
                {**fields, "model_name": model, "scale": "2"}, None
            )
            began = time.monotonic()
            job = await submit(service, picture, model_name=model, scale="2")
            await service.jobs.wait(job.id)
            pairs.append((quote.estimate.total, time.monotonic() - began))
            await service.jobs.delivered(job.id)
    return pairs


def main() -> None:
    parser = make_parser("estimates", __doc__, device=False)
    parser.add_argument("--model", default="realesr-animevideov3")
    parser.add_argument("--learn", type=int, default=10, help="jobs before the first that counts")
    parser.add_argument("--asked", type=int, help="jobs that count")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.asked = options.asked or (5 if options.quick else 15)
    report = Report("estimates", options.quick)
    with tempfile.TemporaryDirectory() as folder:
        count = options.learn + options.asked
        pairs = asyncio.run(measure(options.model, count, Path(folder), options.seed))
    errors = [abs(estimated / real - 1) for estimated, real in pairs]
    rows = [
        (number, f"{estimated:.2f} s", f"{real:.2f} s", f"{error:.0%}")
        for number, ((estimated, real), error) in enumerate(zip(pairs, errors, strict=True), 1)
    ]
    print(table(["job", "estimated", "actual", "error"], rows))
    report.add(f"median error of the estimated time, after {options.learn} jobs",
               100 * statistics.median(errors[options.learn :]),
               "%", target=None if options.quick else TARGET, sense="under")  # fmt: skip
    report.details = {"model": options.model, "seconds": pairs}
    report.finish()


if __name__ == "__main__":
    main()
