"""How well the time of a job is foreseen after ten jobs of mixed sizes.

    python -m bench.estimates [--model realesr-animevideov3] [--learn 10] [--asked 15]

Runs pictures of mixed sizes one at a time through the real service. Before each, notes the
estimate; prints the median error of the later ones (target: under 25 %), writes
``bench/results/estimates.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.services import PHOTOS, make_config, running, submit
from upscaled.model_install import install

RESULTS = Path(__file__).parent / "results" / "estimates.json"
TARGET = 0.25


async def measure(model: str, count: int, folder: Path, seed: int) -> list[tuple[float, float]]:
    """Return the foreseen and the real seconds of each job, from submission to result."""
    rng = random.Random(seed)
    models = folder / "models"
    await asyncio.to_thread(install, models)
    photo = Image.open(PHOTOS / "coffee.jpg").convert("RGB")
    pairs = []
    async with running(make_config(folder / "data", models)) as service:
        for _ in range(count):
            share = rng.uniform(0.1, 1.4)
            size = (int(photo.width * share), int(photo.height * share))
            picture = folder / "picture.png"
            photo.resize(size).save(picture)
            fields = {"input_width": str(size[0]), "input_height": str(size[1])}
            _, quote = await service.quote({**fields, "model_name": model, "scale": "2"}, None)
            began = time.monotonic()
            job = await submit(service, picture, model_name=model, scale="2")
            await service.wait(job.id)
            pairs.append((quote.estimate.total, time.monotonic() - began))
            await service.delivered(job.id)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.estimates", description=__doc__)
    parser.add_argument("--model", default="realesr-animevideov3")
    parser.add_argument("--learn", type=int, default=10)
    parser.add_argument("--asked", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = options.learn + options.asked
        pairs = asyncio.run(measure(options.model, count, Path(folder), options.seed))
    print("| job | foreseen | took | error |\n|---|---|---|---|")
    errors = [abs(foreseen / real - 1) for foreseen, real in pairs]
    for number, ((foreseen, real), error) in enumerate(zip(pairs, errors, strict=True), start=1):
        print(f"| {number} | {foreseen:.2f} s | {real:.2f} s | {error:.0%} |")
    median = statistics.median(errors[options.learn :])
    print(f"\nmedian error after {options.learn} jobs: {median:.0%} (target: under {TARGET:.0%})")
    RESULTS.parent.mkdir(exist_ok=True)
    document = {"model": options.model, "median_error": median, "target": TARGET, "seconds": pairs}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
