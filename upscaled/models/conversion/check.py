"""Is the converted network the one that the file holds? The engines' pixels tell.

The engine enlarges a test picture with two tile sizes. Each tile must equal what the definition
computes of the same pixels (`SourceNetwork.run`), and the whole must look like its source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, PADDING, ModelFiles, UpscaleTask
from upscaled.errors import EngineError
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import INPUT, OUTPUT, Floats
from upscaled.models.conversion.network import SourceNetwork
from upscaled.pictures import RawImage, Size

LEAST_DB = 60.0
"""Agreement with the definition, in bytes: one level more or less in one of fifteen values."""
LARGEST_SHIFT = 48.0
"""Levels by which a channel's mean may differ from the source's. Networks for colour pictures
stay below 10; another order of channels or range of values gives more."""
_SIZE = Size(44, 34)
"""Of the test picture: no multiple of the tiles or of a pixel unshuffle."""
_TILES = (32, 64)
"""One that cuts the picture, and one that holds it."""

Pixels = NDArray[np.uint8]


class DisagreementError(ConversionError):
    """The converted network computes something else than the original."""


@dataclass(frozen=True)
class Agreement:
    """What the check measured."""

    decibels: dict[str, float]
    """By engine library: the least agreement with the definition over the tile sizes."""
    seam_decibels: float
    """The picture in tiles against the picture in one tile; low where the network looks further
    than the padding of 10 pixels reaches."""
    colour_shift: float
    """Levels, of the channel whose mean differs most from the source's."""


def sample(size: Size = _SIZE) -> Pixels:
    """Return a picture (height, width, 3) with slopes, edges, stripes and some noise."""
    rows, columns = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    random = np.random.default_rng(1)
    picture = np.stack(
        [
            255 * columns / size.width,
            255 * rows / size.height,
            127 + 90 * np.sin(columns / 5) * np.cos(rows / 7),
        ],
        axis=2,
    )
    picture[size.height // 4 : size.height // 2, size.width // 3 : size.width // 2] = (230, 40, 60)
    picture[::9, size.width // 2 :] *= 0.4
    picture += random.normal(0, 4, picture.shape)
    values: Pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return values


def by_definition(network: SourceNetwork, picture: Pixels, tile: int) -> Pixels:
    """Return the enlarged picture, tile by tile, each with its padding, as engines cut them."""
    height, width, _ = picture.shape
    padded = np.pad(picture, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
    scale = network.scale
    result = np.zeros((height * scale, width * scale, 3), np.uint8)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            part = padded[top : bottom + 2 * PADDING, left : right + 2 * PADDING]
            made = _bytes(network.run(_planes(part)))
            rows, columns = (bottom - top) * scale, (right - left) * scale
            margin = PADDING * scale
            result[top * scale :, left * scale :][:rows, :columns] = made[
                margin : margin + rows, margin : margin + columns
            ]
    return result


def decibels(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two pictures; 99 where they are equal."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255**2 / error)))


def _planes(picture: Pixels) -> Floats:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / np.float32(255)


def _bytes(planes: Floats) -> Pixels:
    if not np.isfinite(planes).all():
        raise ConversionError("The network computes numbers that are not finite; its weights are "
                              "damaged.")  # fmt: skip
    values = np.clip(np.rint(planes * np.float32(255)), 0, 255)
    return np.ascontiguousarray(values.transpose(1, 2, 0).astype(np.uint8))


def expectations(network: SourceNetwork) -> dict[int, Pixels]:
    """Return what the definition computes, by tile size; blocking.

    Raises:
        ConversionError: the layers do not fit one another.
    """
    try:
        return {tile: by_definition(network, sample(), tile) for tile in _TILES}
    except (ValueError, IndexError) as error:
        raise ConversionError(
            "The sizes of the network's layers do not fit one another; the file is damaged."
        ) from error


async def check(
    network: SourceNetwork,
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
        network: what was converted.
        expected: its `expectations`.
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
    source = RawImage(workdir / "source.rgb", _SIZE)
    await asyncio.to_thread(source.path.write_bytes, picture.tobytes())
    files = ModelFiles(
        param=param, bin=weights, native_scale=network.scale,
        input_blob=INPUT, output_blob=OUTPUT, bytes_per_pixel=1 << 16,
    )  # fmt: skip
    found: dict[str, float] = {}
    made: dict[int, Pixels] = {}
    for library in libraries:
        on_step(f"checking on {library.value}")
        engine = BuiltinEngine(CPU, library=library)
        try:
            for tile in _TILES:
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
    seams = decibels(made[_TILES[0]], made[_TILES[1]])
    shift = float(np.abs(made[_TILES[1]].mean((0, 1)) - picture.mean((0, 1))).max())
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
