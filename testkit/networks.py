"""Tasks for engines, made of arrays, and small networks without weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from testkit.paths import DATA
from upscaled.engines.engine import ModelFiles, UpscaleTask
from upscaled.pictures import RawImage, Size

Pixels = NDArray[np.uint8]


def photo(width: int, height: int, *, left: int = 130, top: int = 60) -> Pixels:
    """Return a part of the photo of a cat's face."""
    with Image.open(DATA / "chelsea.webp") as picture:
        piece = picture.convert("RGB").crop((left, top, left + width, top + height))
        return np.asarray(piece)


def make_task(
    folder: Path,
    pixels: Pixels,
    model: ModelFiles,
    *,
    rows: tuple[int, int] | None = None,
    tile_size: int = 0,
    tta: bool = False,
) -> UpscaleTask:
    """Write ``pixels`` as a source and an empty target, and return the task for ``rows``."""
    height, width, _ = pixels.shape
    source = RawImage(folder / "source.rgb", Size(width, height))
    target = RawImage(folder / "native.rgb", Size(width, height).times(model.native_scale))
    source.path.write_bytes(pixels.tobytes())
    if not target.path.exists() or target.path.stat().st_size != target.total_bytes:
        target.path.write_bytes(bytes(target.total_bytes))
    top, bottom = rows or (0, height)
    return UpscaleTask(source, target, model, top, bottom, tile_size, tta, folder)


def result(task: UpscaleTask) -> Pixels:
    """Return the pixels in the task's target."""
    size = task.target.size
    return np.fromfile(task.target.path, np.uint8).reshape(size.height, size.width, 3)


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the PSNR of two pictures in dB, 99 for equal ones."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def enlarged_plainly(pixels: Pixels, factor: int) -> Pixels:
    """Return each pixel as a square of ``factor`` pixels, as `write_repeater`'s network does."""
    return pixels.repeat(factor, 0).repeat(factor, 1)


def write_network(folder: Path, stem: str, *layers: str) -> ModelFiles:
    """Write a network of weightless ``layers`` between the blobs ``data`` and ``output``."""
    lines = ["Input data 0 1 data", *layers]
    blobs = 4 * len(lines)  # at most
    text = "\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n"
    param, weights = folder / f"{stem}.param", folder / f"{stem}.bin"
    param.write_text(text, "ascii")
    weights.write_bytes(b"")
    return ModelFiles(param, weights, 1, "data", "output", 1000)


def write_weights(model: ModelFiles) -> None:
    """Write random weights for the convolutions, PReLUs and constants of a network."""
    random = np.random.default_rng(3)
    content = []
    for line in model.param.read_text("ascii").splitlines():
        if line.startswith("MemoryData"):
            count = int(line.rpartition("2=")[2])
            content += [random.normal(0, 0.2, count).astype(np.float32).tobytes()]
        if line.startswith(("Convolution", "PReLU")):
            values = {key: int(value) for key, value in re.findall(r" ([06])=(\d+)", line)}
            content += [bytes(4)] if "6" in values else []
            counts = [values[key] for key in ("6", "0") if key in values]  # kernel; bias or slopes
            content += [random.normal(0, 0.2, n).astype(np.float32).tobytes() for n in counts]
    model.bin.write_bytes(b"".join(content))


GATED = (  # as in SPAN: normalised by a constant, and multiplied by its own curve
    "MemoryData m 0 1 m 0=1 1=1 2=3",
    "BinaryOp n 2 1 data m n 0=1",
    "BinaryOp o 1 1 n o 0=2 1=1 2=2.0",
    "Convolution a 1 1 o p 0=3 1=3 4=1 5=1 6=81",
    "Split s 1 3 p q r t",
    "Swish w 1 1 q w",
    "Sigmoid g 1 1 r g",
    "BinaryOp h 1 1 g h 0=1 1=1 2=5.0e-01",
    "BinaryOp i 2 1 w h i 0=2",
    "Convolution b 1 1 i j 0=3 1=3 4=1 5=1 6=81",
    "BinaryOp k 2 1 j t k 0=1",
    "BinaryOp l 1 1 k output 0=0 1=1 2=2.5e-01",
)


def write_repeater(folder: Path, stem: str, factor: float) -> ModelFiles:
    """Write a network that repeats each pixel ``factor`` times to the right and down."""
    made = write_network(
        folder, stem, f"Interp up 1 1 data output 0=1 1={factor:.6e} 2={factor:.6e}"
    )
    return ModelFiles(made.param, made.bin, round(factor), "data", "output", 1000)


def shipped(models_dir: Path, stem: str) -> ModelFiles:
    """Return the files of an official model; its scale is the digit its name ends in, or 4."""
    scale = int(stem[-1]) if stem[-2:] in {"x2", "x3", "x4"} else 4
    appetite = 4000 if "video" in stem else 70_000
    param, weights = models_dir / f"{stem}.param", models_dir / f"{stem}.bin"
    repeats = stem.startswith("waifu2x")  # as its .param says
    return ModelFiles(param, weights, scale, "data", "output", appetite, repeats)
