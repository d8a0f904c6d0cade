"""Test the limits of verification: no false alarm, every planted fault found.

    python -m bench.verification [--quick] [--keep FOLDER] [--models NAME …] [--side N]

Every network enlarges the whole gallery (``--quick``: an eighth of it). No correct result may
exceed `CONFIRMABLE_LIMIT`; the few above `TRUSTED_LIMIT` are the ones that a second process must
confirm. Then faults are planted, and each visible one must exceed `TRUSTED_LIMIT`. ``--keep``
stores the networks' results in a folder, so that other limits can be tried without computing them
again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.report import Report, table
from bench.setup import bench_setup, make_parser
from testkit.gallery import KINDS, Picture, gallery
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import to_bytes
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.tiling import reflected
from upscaled.imaging.verify import comparison
from upscaled.imaging.verify.thresholds import CONFIRMABLE_LIMIT, TRUSTED_LIMIT
from upscaled.models.packs import OFFICIAL

Pixels = NDArray[np.uint8]

VISIBLE = 48.0
"""A fault is visible from so many levels (root mean square over one block)."""
TILE = 32
"""Side of the tiles in which faults are planted, in source pixels."""
SIDES = {"realesrgan-x4plus": 40, "realesrgan-x4plus-anime": 40}
"""Side of the gallery's pictures for the slow networks; `SIDE` for the others."""
SIDE = 96


@dataclass
class Tally:
    """The results of one model."""

    pictures: int = 0
    doubted: list[str] = field(default_factory=list)
    """Correct results that a second process must confirm."""
    false_alarms: list[str] = field(default_factory=list)
    worst: float = 0.0
    planted: Counter[str] = field(default_factory=Counter)
    visible: Counter[str] = field(default_factory=Counter)
    missed: dict[str, list[str]] = field(default_factory=dict)


def enlarged(network: NcnnNetwork, pixels: Pixels) -> Pixels:
    """Return a picture enlarged by the network in one tile."""
    height, width = pixels.shape[:2]
    padded = pixels[reflected(0, height, height)[:, None], reflected(0, width, width)]
    return to_bytes(network.run(padded))


def reduced(made: Pixels, scale: int) -> Pixels:
    """Return an enlarged picture at its source's size."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(made)).reduce(scale))


def planted(made: Pixels, scale: int, rng: np.random.Generator) -> Iterator[tuple[str, Pixels]]:
    """Yield the names and pixels of faulty versions of a correct result."""
    height, width = made.shape[:2]
    side = TILE * scale
    down, across = -(-height // side), -(-width // side)

    def tile(number: int) -> tuple[slice, slice]:
        row, column = divmod(number, across)
        return slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)

    yield "black picture", np.zeros_like(made)
    faulty = made.copy()
    faulty[tile(int(rng.integers(down * across)))] = 0
    yield "one black tile", faulty
    whole = [r * across + c for r in range(height // side) for c in range(width // side)]
    if len(whole) > 1:
        first, second = (tile(int(n)) for n in rng.choice(whole, 2, replace=False))
        faulty = made.copy()
        faulty[first], faulty[second] = made[second], made[first]
        yield "tiles swapped", faulty
    yield "channels swapped", made[..., ::-1]
    yield "values wrapped", (made.astype(np.int16) + 64).astype(np.uint8)
    for axis in (0, 1):
        for name, shift in (("result", 8), ("source", 8 * scale)):
            if made.shape[axis] > 2 * shift:
                start = np.repeat(made.take([0], axis), shift, axis)
                kept = made.take(range(made.shape[axis] - shift), axis)
                yield f"shifted by 8 px of the {name}", np.concatenate((start, kept), axis)
    if height > 1:
        faulty = made.copy()
        faulty[height // 2 :] = 0
        yield "half missing", faulty
    faulty = made.copy()
    for number in range(down * across):
        part = made[tile(number)]
        corner = part[: -(-part.shape[0] // 2), : -(-part.shape[1] // 2)]
        grown = corner.repeat(2, 0).repeat(2, 1)
        faulty[tile(number)] = grown[: part.shape[0], : part.shape[1]]
    yield "tiles scrambled (-s 2)", faulty


def seen(source: Pixels, right: Pixels, faulty: Pixels) -> float:
    """Return by how many levels a fault changes the block that shows it best.

    Blocks of noise do not count: those with more contrast between neighbouring pixels than beyond.
    """
    sharp = source.astype(np.float32)
    grid = comparison.Grid(*source.shape[:2])
    plain = comparison.smooth(sharp)
    fine = grid.means((sharp - plain) ** 2).max(axis=2)
    behind = (grid.means(plain**2) - grid.means(plain) ** 2).max(axis=2)
    first, second = (comparison.smooth(p.astype(np.float32)) for p in (right, faulty))
    change = np.sqrt(grid.means((first - second) ** 2).mean(axis=2))
    return float(np.where(fine <= np.maximum(behind, comparison.CHAOS_FROM**2), change, 0).max())


def judge(tally: Tally, picture: Picture, made: Pixels) -> None:
    """Check one correct result and its faulty versions."""
    scale = made.shape[0] // picture.pixels.shape[0]
    name = f"{picture.kind} {picture.number}"
    right = reduced(made, scale)
    share = comparison.compare(picture.pixels, right).worst()[0]
    tally.pictures += 1
    tally.worst = max(tally.worst, float(share))
    if share > TRUSTED_LIMIT:
        tally.doubted.append(f"{name} ({share:.2f})")
    if share > CONFIRMABLE_LIMIT:
        tally.false_alarms.append(f"{name} ({share:.2f})")
    rng = np.random.default_rng(picture.number)
    for fault, result in planted(made, scale, rng):
        faulty = reduced(result, scale)
        tally.planted[fault] += 1
        change = seen(picture.pixels, right, faulty)
        if change < VISIBLE:
            continue
        tally.visible[fault] += 1
        share = comparison.compare(picture.pixels, faulty).worst()[0]
        if share <= TRUSTED_LIMIT:
            tally.missed.setdefault(fault, []).append(f"{name} ({change:.0f}, {share:.2f})")


def experiment(
    model: str, models: Path, share: float, kept: Path | None, side: int | None = None
) -> Tally:
    """Run the gallery through one model."""
    files = NetworkFiles(models / f"{model}.param", models / f"{model}.bin", "data", "output")
    network = NcnnNetwork(files, device=None, threads=os.cpu_count() or 1)
    tally = Tally()
    for picture in gallery(side or SIDES.get(model, SIDE), share=share):
        store = kept / f"{model}-{picture.kind}-{picture.number}.npy" if kept else None
        if store is not None and store.exists():
            made = np.load(store)
        else:
            made = enlarged(network, picture.pixels)
            if store is not None:
                np.save(store, made)
        judge(tally, picture, made)
    return tally


def summary(tallies: dict[str, Tally]) -> str:
    """Return a Markdown table with one column per model."""
    columns = tallies.values()
    rows: list[list[object]] = [
        ["pictures", *(t.pictures for t in columns)],
        ["false alarms", *(len(t.false_alarms) for t in columns)],
        ["nearest to one", *(f"{t.worst / CONFIRMABLE_LIMIT:.2f}" for t in columns)],
        ["confirmed by a second process", *(len(t.doubted) for t in columns)],
    ]
    for fault in dict.fromkeys(fault for t in columns for fault in t.planted):
        found = (t.visible[fault] - len(t.missed.get(fault, [])) for t in columns)
        visible = (t.visible[fault] for t in columns)
        rows.append([fault, *(f"{n} of {all_}" for n, all_ in zip(found, visible, strict=True))])
    return table(["", *tallies], rows)


def main() -> None:
    parser = make_parser("verification", __doc__, device=False)
    parser.add_argument("--keep", type=Path, help="folder for the networks' results")
    stems = list(OFFICIAL.networks)
    parser.add_argument("--models", nargs="+", choices=stems, default=stems)
    parser.add_argument("--side", type=int, help="pictures' side, for all networks; keeps nothing")
    options = parser.parse_args()
    kept: Path | None = None if options.side else options.keep
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
    share = 0.125 if options.quick else 1.0
    with bench_setup(options) as setup:
        tallies = {
            model: experiment(model, setup.models, share, kept, options.side)
            for model in options.models
        }
    report = Report("verification", options.quick or options.models != stems)
    report.table = summary(tallies)
    print(report.table)
    for model, tally in tallies.items():
        for alarm in tally.false_alarms:
            print(f"{model}: false alarm for {alarm}")
        for fault, names in tally.missed.items():
            print(f"{model}: missed {fault}: {', '.join(names)}")
        report.add(f"{model}: false alarms", len(tally.false_alarms), target=0)
        missed = sum(len(names) for names in tally.missed.values())
        report.add(f"{model}: visible faults missed", missed, target=0)
    report.details = {
        "gallery": {kind: count for kind, (count, _) in KINDS.items()},
        "models": {model: vars(tally) for model, tally in tallies.items()},
    }
    report.finish()


if __name__ == "__main__":
    main()
