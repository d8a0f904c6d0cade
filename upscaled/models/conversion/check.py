"""Checks that the converted network is the one in the file, by the engines' pixels.

The engine enlarges a test picture with two tile sizes. Each tile must equal what the definition
computes of the same pixels (`definition`), and the whole must look like its source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, ModelFiles, UpscaleTask
from upscaled.errors import EngineError
from upscaled.models.conversion.definition import SIZE, TILES, Pixels, decibels, sample
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.imported import Agreement
from upscaled.models.conversion.layers import INPUT, OUTPUT
from upscaled.pictures import RawImage

LEAST_DB = 60.0
"""Agreement with the definition, in bytes: one level more or less in one of fifteen values."""
LARGEST_SHIFT = 48.0
"""Levels by which a channel's mean may differ from the source's. Networks for colour pictures
stay below 10; another order of channels or range of values gives more."""


class DisagreementError(ConversionError):
    """The converted network computes something else than the original."""


async def check(
    scale: int,
    expected: dict[int, Pixels],
    param: Path,
    weights: Path,
    workdir: Path,
    *,
    libraries: tuple[CpuLibrary, ...],
    looks_like_source: bool = True,
    on_step: Callable[[str], None] = lambda _: None,
) -> Agreement:
    """Compare a converted pair with the definition on each library of the builtin engine.

    Args:
        scale: the network's.
        expected: what it must make, see `expectations`.
        param: the pair's text.
        weights: its ``.bin``.
        workdir: an existing folder for the test picture and the results.
        libraries: what runs networks here.
        looks_like_source: refuse a network whose colours are off.
        on_step: is told what is being done.

    Raises:
        DisagreementError: it computes something else.
        ConversionError: its colours are off, or the engine cannot run it.
    """
    picture = sample()
    source = RawImage(workdir / "source.rgb", SIZE)
    await asyncio.to_thread(source.path.write_bytes, picture.tobytes())
    files = ModelFiles(
        param=param, bin=weights, native_scale=scale,
        input_blob=INPUT, output_blob=OUTPUT, bytes_per_pixel=1 << 16,
    )  # fmt: skip
    found: dict[str, float] = {}
    made: dict[int, Pixels] = {}
    for library in libraries:
        on_step(f"checking on {library.value}")
        engine = BuiltinEngine(CPU, library=library)
        try:
            for tile in TILES:
                made[tile] = await _enlarged(engine, source, files, tile, workdir)
                agreement = decibels(made[tile], expected[tile])
                found[library.value] = min(agreement, found.get(library.value, 99.0))
        finally:
            await engine.close()
        if found[library.value] < LEAST_DB:
            raise DisagreementError(
                f"The converted network makes another picture than the original: "
                f"{found[library.value]:.1f} dB on {library.value}, {LEAST_DB:g} are needed."
            )
    seams = decibels(made[TILES[0]], made[TILES[1]])
    shift = float(np.abs(made[TILES[1]].mean((0, 1)) - picture.mean((0, 1))).max())
    if looks_like_source and shift > LARGEST_SHIFT:
        raise ConversionError(
            f"The network changes colours by {shift:.0f} levels on average, so its pictures would "
            "be refused; it may be made for something else than enlarging."
        )
    return Agreement(found, seams, shift)


async def _enlarged(
    engine: BuiltinEngine, source: RawImage, files: ModelFiles, tile: int, workdir: Path
) -> Pixels:
    size = source.size.times(files.native_scale)
    target = RawImage(workdir / "result.rgb", size)
    await asyncio.to_thread(target.path.write_bytes, bytes(target.total_bytes))
    task = UpscaleTask(
        source=source, target=target, model=files,
        top=0, bottom=source.size.height, tile_size=tile, workdir=workdir,
    )  # fmt: skip
    try:
        await engine.upscale(task, lambda _: None)
    except EngineError as error:
        raise ConversionError(f"The engine cannot run the network: {error.message}") from error
    content = await asyncio.to_thread(target.path.read_bytes)
    return np.frombuffer(content, np.uint8).reshape(size.height, size.width, 3)
