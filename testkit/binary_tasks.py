"""Tasks for the engine that runs a native program, and what they should become."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from testkit.paths import DATA
from testkit.waiting import until
from upscaled.engines.engine import ModelFiles, Progress, UpscaleTask
from upscaled.pictures import RawImage, Size

PHOTO = DATA / "astronaut.png"


def model_of(models_dir: Path, name: str, scale: int) -> ModelFiles:
    param = models_dir / f"{name}.param"
    return ModelFiles(param, param.with_suffix(".bin"), scale, "data", "output", 0)


def photo(width: int, height: int) -> NDArray[np.uint8]:
    """A piece of a real photo (the face), reduced to ``width`` × ``height``."""
    with Image.open(PHOTO) as picture:
        face = picture.convert("RGB").crop((150, 30, 350, 230))
        return np.asarray(face.resize((width, height), Image.Resampling.BOX), np.uint8).copy()


def task_for(
    folder: Path,
    pixels: NDArray[np.uint8],
    model: ModelFiles,
    *,
    top: int = 0,
    bottom: int | None = None,
    tile_size: int = 0,
    tta: bool = False,
) -> UpscaleTask:
    folder.mkdir(parents=True, exist_ok=True)
    height, width, _ = pixels.shape
    source = RawImage(folder / "source.rgb", Size(width, height))
    source.path.write_bytes(pixels.tobytes())
    target = RawImage(folder / "native.rgb", source.size.times(model.native_scale))
    with target.path.open("wb") as file:
        file.truncate(target.total_bytes)
    workdir = folder / "work"
    workdir.mkdir(exist_ok=True)
    end = height if bottom is None else bottom
    return UpscaleTask(source, target, model, top, end, tile_size, tta, workdir)


def result(task: UpscaleTask) -> NDArray[np.uint8]:
    size = task.target.size
    return np.fromfile(task.target.path, np.uint8).reshape(size.height, size.width, 3)


def psnr(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
) -> float:
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def ignore(_: Progress) -> None:
    """A progress callback."""


async def until_child_of(name: str) -> psutil.Process:
    """Wait until a child of this process runs the program ``name``."""

    def found() -> list[psutil.Process]:
        children = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # another one, just gone
                if child.name() == name:
                    children.append(child)
        return children

    return (await until(found))[0]
