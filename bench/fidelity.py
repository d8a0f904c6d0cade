"""How faithful each model is: reduced photos are enlarged and compared with the originals.

    python -m bench.fidelity [--quick] [--device INDEX] [--models FOLDER] [--pictures FOLDER]

Each picture is reduced by Pillow's bicubic filter, enlarged by every model of its scale by every
engine, and compared. The engines are the builtin one with each library on the processor and, with
``--device``, on a Vulkan device, where the native program in ``bin/`` or PATH is one too:

- PSNR-Y: of the luma of ITU-R BT.601, without a border as wide as the scale, as is usual in papers;
- SSIM of that luma (Wang and others, 2004: 11×11 Gaussian window of 1.5, K1 0.01, K2 0.03);
- consistency: PSNR between the reduced picture and the result, reduced in the same way.

Bicubic enlargement is the baseline. These figures tell fidelity, not beauty: networks that invent
plausible detail score lower than ones that were trained to stay close to the original.

``--models`` adds a folder of models, ``--pictures`` a folder of PNG pictures to the project's own
photos.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.report import Report, table
from bench.setup import bench_setup, make_parser
from testkit.networks import make_task, result
from testkit.paths import DATA
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.binary.program import find_program
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.devices import list_devices
from upscaled.engines.engine import CPU, Engine, ModelFiles
from upscaled.errors import EngineError
from upscaled.models.catalog import ModelCatalog

Pixels = NDArray[np.uint8]
Luma = NDArray[np.float64]

PHOTOS = ("astronaut.png", "coffee.jpg", "chelsea.webp")
QUICK_SIDE = 96
BASELINE = "bicubic"


@dataclass(frozen=True)
class Original:
    """A picture whose sides are multiples of every scale, and the digest of its file."""

    name: str
    sha256: str
    pixels: Pixels


@dataclass(frozen=True)
class Scores:
    psnr: float
    ssim: float
    consistency: float


def originals(folder: Path | None, side: int | None) -> Iterator[Original]:
    """Yield the pictures, cut to ``side`` in the middle if it is given."""
    more = sorted(folder.glob("*.png")) if folder else []
    for path in [*(DATA / name for name in PHOTOS), *more]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width = (min(length, side or length) // 12 * 12 for length in pixels.shape[:2])
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield Original(path.name, digest, pixels[top : top + height, left : left + width])


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return a picture resized by Pillow's bicubic filter."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def luma(pixels: Pixels) -> Luma:
    """Return Y of ITU-R BT.601, 16 to 235."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return 16 + pixels.astype(np.float64) @ weights


def psnr(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Return the PSNR in dB, for a peak of 255."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: Luma, other: Luma) -> float:
    """Return the mean structural similarity of two pictures of luma."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def blurred(values: Luma) -> Luma:
        rows = np.lib.stride_tricks.sliding_window_view(values, 11, axis=0) @ window
        return np.asarray(np.lib.stride_tricks.sliding_window_view(rows, 11, axis=1) @ window)

    mean_one, mean_other = blurred(one), blurred(other)
    variance_one = blurred(one * one) - mean_one**2
    variance_other = blurred(other * other) - mean_other**2
    covariance = blurred(one * other) - mean_one * mean_other
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_one * mean_other + c1) * (2 * covariance + c2)) / (
        (mean_one**2 + mean_other**2 + c1) * (variance_one + variance_other + c2)
    )
    return float(similarity.mean())


def scored(original: Pixels, small: Pixels, made: Pixels, scale: int) -> Scores:
    """Compare an enlargement with the original."""
    inner = slice(scale, -scale)
    one, other = luma(original)[inner, inner], luma(made)[inner, inner]
    back = resized(made, small.shape[1], small.shape[0])
    return Scores(psnr(one, other), ssim(one, other), psnr(back, small))


async def networks(folders: list[Path]) -> dict[str, list[ModelFiles]]:
    """Return the installed networks by the name of their model."""
    found: dict[str, list[ModelFiles]] = {}
    for folder in folders:
        catalog = ModelCatalog(folder)
        await catalog.rescan()
        for model in catalog.models:
            found[model.name] = list(model.files.values())
    return found


async def measure(
    folder: Path,
    folders: list[Path],
    pictures: list[Original],
    engines: Mapping[str, Callable[[], Engine]],
) -> str:
    """Enlarge every picture by every network on every engine, and return the table."""
    scores: dict[tuple[int, str, str], list[Scores]] = defaultdict(list)
    models = await networks(folders)
    scales = sorted({files.native_scale for model in models.values() for files in model})
    smalls = {
        (picture.name, scale): resized(
            picture.pixels, picture.pixels.shape[1] // scale, picture.pixels.shape[0] // scale
        )
        for picture in pictures
        for scale in scales
    }
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        for scale in scales:
            small = smalls[picture.name, scale]
            made = resized(small, width, height)
            scores[scale, BASELINE, ""].append(scored(picture.pixels, small, made, scale))
    for label, make_engine in engines.items():
        engine = make_engine()
        try:
            for name, nets in models.items():
                for files in nets:
                    print(f"{name} ×{files.native_scale} by {label}", flush=True)
                    scale = files.native_scale
                    for picture in pictures:
                        small = smalls[picture.name, scale]
                        try:
                            made = await enlarged(engine, folder, small, files)
                        except EngineError as error:
                            print(f"  left out: {error.message}", flush=True)
                            break
                        scores[scale, name, label].append(
                            scored(picture.pixels, small, made, scale)
                        )
        finally:
            await engine.close()
    keys = sorted({key[:2] for key in scores})
    return table(
        ["scale", "model", "PSNR-Y", "SSIM", "consistency"],
        [row(scale, model, scores) for scale, model in keys],
    )


async def enlarged(engine: Engine, folder: Path, small: Pixels, files: ModelFiles) -> Pixels:
    """Return what an engine makes of a picture.

    Raises:
        EngineError: it can't run the network.
    """
    task = make_task(folder, small, files)
    task.target.path.write_bytes(bytes(task.target.total_bytes))
    await engine.upscale(task, lambda _: None)
    return result(task)


async def engines_of(index: int) -> dict[str, Callable[[], Engine]]:
    """Return what makes each engine: those of the processor and, from 0 on, of a Vulkan device."""
    found: dict[str, Callable[[], Engine]] = {
        f"the builtin engine with {library}": functools.partial(BuiltinEngine, CPU, library=library)
        for library in CpuLibrary
    }
    if index < 0:
        return found
    device = next((one for one in await list_devices() if one.index == index), None)
    if device is None:
        raise SystemExit(f"There is no Vulkan device {index}; `upscaled doctor` lists them.")
    found[f"the builtin engine on {device.name}"] = functools.partial(BuiltinEngine, device)
    root = Path(__file__).parent.parent
    program = find_program("", root / "bin") or find_program("", root / ".tools")
    if program is None:
        print("There is no native program in bin/ or PATH; it is left out.")
    else:
        found[f"{program.name} on {device.name}"] = functools.partial(BinaryEngine, program, device)
    return found


def row(
    scale: int, model: str, scores: Mapping[tuple[int, str, str], Sequence[Scores]]
) -> list[str]:
    """Return a row of the table: means over all pictures, the lowest of all engines.

    The engines differ by hundredths of a dB.
    """
    found = [of_one for key, of_one in scores.items() if key[:2] == (scale, model)]
    psnr_, ssim_, consistency = (
        min(float(np.mean([getattr(one, name) for one in of_one])) for of_one in found)
        for name in ("psnr", "ssim", "consistency")
    )
    return [f"×{scale}", model, f"{psnr_:.2f} dB", f"{ssim_:.4f}", f"{consistency:.1f} dB"]


def parsed() -> argparse.Namespace:
    parser = make_parser("fidelity", __doc__)
    parser.add_argument("--models", type=Path, help="a folder with further models")
    parser.add_argument("--pictures", type=Path, help="a folder with further PNG pictures")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    pictures = list(originals(options.pictures, QUICK_SIDE if options.quick else None))
    report = Report("fidelity", options.quick)
    with bench_setup(options) as setup:
        folders = [setup.models, *([options.models] if options.models else [])]
        engines = asyncio.run(engines_of(options.device))
        report.table = asyncio.run(measure(setup.folder, folders, pictures, engines))
    report.details["engines"] = list(engines)
    inputs = [[f"`{picture.name}`", f"`{picture.sha256}`"] for picture in pictures]
    report.table += "\n\n" + table(["picture", "SHA-256"], inputs)
    print(report.table)
    print("\nThese figures tell fidelity, not beauty: networks that invent detail score lower.")
    report.finish()


if __name__ == "__main__":
    main()
