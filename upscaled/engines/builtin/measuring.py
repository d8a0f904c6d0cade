"""Measures one method to run a network, inside a worker process of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from upscaled.engines import memory
from upscaled.engines.builtin import inspection
from upscaled.engines.builtin.choice import Pace
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.graph import UnknownGraphError
from upscaled.engines.builtin.loader import textured
from upscaled.engines.builtin.memory_budget import MemoryBudget
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    InferenceError,
    Network,
    Pixels,
    crop_margin,
    psnr_db,
    to_bytes,
)
from upscaled.engines.builtin.other_programs import OtherPrograms
from upscaled.engines.builtin.protocol import NetworkFiles, Trial
from upscaled.engines.engine import PADDING, ModelFiles

SIDES = (64, 128, 200, 400)
"""Tile sides that are tried, in pixels without padding."""
_PROBE_SIDE = 48 + 2 * PADDING
"""Of the pictures that are compared; with x4plus each takes 0.4 s on two cores."""
_ROUND_SECONDS = 3.0
"""A tile side whose tiles are expected to take longer than this is not tried."""
_SECONDS = 0.4
"""Least length of a round: as many tiles as it takes, of which the quickest counts."""
_ROUNDS = 2
"""How many rounds must pass while other programs are quiet."""
_MOST_ROUNDS = 8
"""After so many, the machine is busy."""
_PACKED = 0.9
"""As in `tile_plan`."""
_IDENTICAL_DB = 120.0
"""Stands for equal pictures: JSON has no infinity."""


class MachineBusyError(Exception):
    """Other programs take too much of the processors for a meaningful measurement."""


@dataclass(frozen=True)
class Measurement:
    """What a trial found."""

    paces: tuple[Pace, ...]
    decibels: dict[str, float]
    """Agreement with ncnn in 32 bits by picture; empty if it was not asked for."""


def measure(trial: Trial, cores: int, limit: int) -> Measurement:
    """Load a network with one method and run it on tiles of several sizes.

    Args:
        trial: the network and the method.
        cores: threads of all tiles together.
        limit: bytes that the process may hold.

    Raises:
        InferenceError: the method can't run the network.
        TooLittleMemoryError: it does not fit into the limit.
        MachineBusyError: other programs keep the processors busy.
    """
    model, library = trial.model, trial.library
    budget = MemoryBudget(model, model.bin.stat().st_size, limit, library)
    if budget.variant.library is not library or budget.variant.lean:
        raise InferenceError("failed", "The memory limit leaves too little for this library.")
    expected = _expected(model, cores) if trial.compare and library is not CpuLibrary.NCNN else {}
    memory.trim()
    network = _load(model, library, cores, trial.threads)
    decibels = {
        name: round(min(psnr_db(to_bytes(network.run(probe)), picture), _IDENTICAL_DB), 1)
        for name, (probe, picture) in expected.items()
    }
    at_once = max(1, cores // trial.threads)
    most = int(budget.for_tiles * _PACKED)
    others = OtherPrograms(cores, trial.stat)
    paces: list[Pace] = []
    for side in SIDES:
        pixels = (side + 2 * PADDING) ** 2
        if pixels * budget.bytes_per_pixel * at_once > most:
            break
        if paces and paces[-1].seconds_per_pixel * pixels * at_once > _ROUND_SECONDS:
            break
        memory.reset_peak()
        seconds = _seconds(network, side, at_once, others)
        found = memory.peak() >> 20
        network.release_memory()
        memory.trim()
        paces.append(Pace(library, trial.threads, at_once, side, seconds / pixels, found))
    return Measurement(tuple(paces), decibels)


def _load(model: ModelFiles, library: CpuLibrary, cores: int, threads: int) -> Network:
    files = NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)
    if library is CpuLibrary.NCNN:
        return NcnnNetwork(files, device=None, threads=threads)
    from upscaled.engines.builtin.openvino_network import OpenvinoNetwork  # noqa: PLC0415 - 20 MB

    try:
        return OpenvinoNetwork(
            files, cores=cores, threads=threads, bf16=library is CpuLibrary.OPENVINO_BF16
        )
    except UnknownGraphError as error:
        raise InferenceError("bad_model", str(error)) from None


def _expected(model: ModelFiles, cores: int) -> dict[str, tuple[Pixels, Pixels]]:
    """Return padded test pictures by name, each with ncnn's output in 32 bits."""
    files = NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)
    whole = NcnnNetwork(files, device=None, threads=cores, lean=True, padding=0)
    pairs = {}
    for name, picture in _PICTURES.items():
        probe = picture(_PROBE_SIDE, _PROBE_SIDE)
        margin = PADDING * model.native_scale
        pairs[name] = (probe, to_bytes(crop_margin(whole.run(probe), margin)))
    return pairs


def _text(width: int, height: int) -> Pixels:
    """Return dark strokes like those of letters on white, (height, width, 3)."""
    picture = np.full((height, width, 3), 255, np.uint8)
    for number, top in enumerate(range(2, height - 8, 11)):
        for left in range(2 + number % 3, width - 6, 7):
            picture[top : top + 8, left] = 20
            picture[top + (left * 3) % 8, left : left + 5] = 20
            if left % 2:
                picture[top : top + 8, left + 4] = (20, 20, 120)
    return picture


def _noise(width: int, height: int) -> Pixels:
    """Return a photo with the noise of very little light, (height, width, 3).

    Pixels that are nothing but noise amplify any error: bfloat16 leaves 45 to 49 dB of them, which
    shows in no picture.
    """
    grain = np.random.default_rng(2).normal(0, 25, (height, width, 3))
    pixels: Pixels = np.clip(textured(width, height) + grain, 0, 255).astype(np.uint8)
    return pixels


_PICTURES: dict[str, Callable[[int, int], Pixels]] = {
    "slope": inspection.gradient,
    "photo": textured,
    "text": _text,
    "noise": _noise,
}


def _seconds(network: Network, side: int, at_once: int, others: OtherPrograms) -> float:
    """Return the seconds for one tile while ``at_once`` tiles run side by side.

    Rounds in which other programs took part of the processors do not count.

    Raises:
        MachineBusyError: too few rounds count.
    """
    tile = textured(side + 2 * PADDING, side + 2 * PADDING)
    together = threading.Barrier(at_once)

    def work(_: int) -> None:
        together.wait()
        to_bytes(network.run(tile))

    quiet: list[float] = []
    with ThreadPoolExecutor(at_once, thread_name_prefix="tiles") as pool:
        list(pool.map(work, range(at_once)))  # the first time is slower
        for _ in range(_MOST_ROUNDS):
            others.begin()
            seconds = _round(lambda: list(pool.map(work, range(at_once))))
            if others.are_quiet():
                quiet.append(seconds)
            if len(quiet) == _ROUNDS:
                return min(quiet) / at_once
    raise MachineBusyError


def _round(run: Callable[[], object]) -> float:
    """Run again and again for `_SECONDS`; return the seconds of the quickest."""
    end, best = time.perf_counter() + _SECONDS, math.inf
    while (began := time.perf_counter()) < end:
        run()
        best = min(best, time.perf_counter() - began)
    return best
