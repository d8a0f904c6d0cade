"""Estimates how long a job will take, from similar jobs on this machine."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.cpu_methods import CpuMethods
from upscaled.engines.builtin.memory_budget import TooLittleMemoryError
from upscaled.engines.builtin.tile_plan import TilePlan, plan_on_cpu, plan_on_gpu
from upscaled.engines.engine import PADDING, SMALLEST_TILE, TTA_RUNS, ModelFiles, is_small
from upscaled.engines.guessed_time import (
    CPU_WEIGHTS_PER_SECOND,
    GPU_WEIGHTS_PER_SECOND,
    guess_seconds,
)
from upscaled.engines.pool import Place
from upscaled.errors import NoSpaceError, StoreUnavailableError, UnknownModelError
from upscaled.pictures import Size
from upscaled.timing.fit import LearnedLine, Line

log = logging.getLogger(__name__)

_KEEP_SECONDS = 30.0
_TELLING_SECONDS = 2.0
"""Shorter jobs are not compared with measurements, since they may consist of loading the
network."""

# First guesses, on the slow side: a job that is ready early is better than one that is late.
_LOAD_BYTES_PER_SECOND = 100e6
"""Reading and rearranging a network: 0.13 to 0.3 s were measured for 33 MB."""
_PREPARE = Line(0.02, 60e-9)
_FINISH = Line(0.03, 120e-9)


_plan_on_cpu = functools.lru_cache(256)(plan_on_cpu)
"""Comparing the tile sizes of a large picture takes milliseconds, on many cores tens of them."""


class RateStore(Protocol):
    """Stores measured rates across restarts."""

    async def load_rates(self) -> Mapping[str, str]:
        """Return all rates by key."""
        ...

    async def save_rates(self, rates: Mapping[str, str]) -> None:
        """Insert or replace."""
        ...


@dataclass(frozen=True)
class Work:
    """The properties of a job that decide how long it takes."""

    model: ModelFiles
    source: Size
    output: Size
    input_format: str
    format: str
    tile_size: int = 0
    tta: bool = False
    fast: bool = False
    """In 16 bits, where those are quicker."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of a job by stage."""

    prepare: float
    upscale: float
    """Time in a slot, with the model loaded."""
    finish: float
    load: float
    """Time to load the model, if that is not part of every job."""
    measured: bool
    """False if the upscaling time is a guess, since the network has neither run nor been measured
    here yet."""

    @property
    def total(self) -> float:
        """Seconds from start to end, without waiting and with the model loaded."""
        return self.prepare + self.upscale + self.finish


class Estimator:
    """Learns and estimates how long jobs take. Call `meet` for a job before anything else.

    Args:
        place: the preferred place; estimates use its rates.
        cores: CPU cores that inference may use.
        engine_memory: bytes that a process of the builtin engine may hold.
        store: keeps the rates.
        shares: how many small pictures the place processes at the same time.
        library: what runs networks on the CPU, where nothing was measured.
        methods: what was measured.
    """

    def __init__(
        self,
        place: Place,
        cores: int,
        engine_memory: int,
        store: RateStore,
        *,
        shares: int = 1,
        library: CpuLibrary = CpuLibrary.NCNN,
        methods: CpuMethods | None = None,
    ) -> None:
        self._library = library
        self._methods = methods or CpuMethods()
        self._shares = shares
        self._place = place
        self._cores = cores
        self._engine_memory = engine_memory
        self._store = store
        self._rates: dict[str, LearnedLine] = {}
        self._kept: dict[str, list[tuple[float, float]]] = {}
        self._changed: set[str] = set()
        self._stored: dict[str, int] = {}
        self._warm: set[str] = set()

    async def load(self) -> None:
        """Load the rates of earlier runs and of others; what can't be read is measured again.

        What was measured here since the last `save` stays.
        """
        for key, text in (await self._store.load_rates()).items():
            if key in self._changed:
                continue
            try:
                self._kept[key] = [(float(a), float(s)) for a, s in json.loads(text)]
            except (ValueError, TypeError):
                continue
            self._rates.pop(key, None)

    async def save(self) -> None:
        """Store the rates measured since the last call."""
        changed, self._changed = self._changed, set()
        if changed:
            rates = {key: json.dumps(self._rates[key].points) for key in changed}
            try:
                await self._store.save_rates(rates)
            except (NoSpaceError, StoreUnavailableError) as error:
                self._changed |= changed  # the next time
                log.warning("measured rates can't be kept yet: %s", error.message)

    async def keep(self, seconds: float = _KEEP_SECONDS) -> None:
        """Save every ``seconds`` seconds; runs until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.save()

    async def meet(self, work: Work) -> None:
        """Load what the estimate of ``work`` needs, so that `estimate` takes no time.

        Raises:
            UnknownModelError: the model's file, whose length the first guess needs, is missing.
        """
        await self._measure(work.model)
        if not is_small(work.source):
            await asyncio.to_thread(self._plan, work, self._place, work.tile_size)

    async def _measure(self, model: ModelFiles) -> None:
        """Find out how long a model's file is.

        Raises:
            UnknownModelError: it is missing.
        """
        if model.stem not in self._stored:
            try:
                facts = await asyncio.to_thread(model.bin.stat)
            except OSError as error:
                raise UnknownModelError(
                    f"The model's file {model.bin.name} can't be read ({error.strerror}); put it "
                    "back or name another model."
                ) from None
            self._stored[model.stem] = facts.st_size

    def estimate(self, work: Work) -> Estimate:
        """Return how long ``work`` will take at the best place."""
        place = self._place
        upscale = self._of(self._upscale_key(place, work), self._guess(place, work.model))
        seconds = upscale.line.seconds(self._padded(work, place, work.tile_size))
        return Estimate(
            prepare=self._of(f"prepare {work.input_format}", _PREPARE).line.seconds(
                work.source.pixels
            ),
            upscale=seconds,
            finish=self._of(f"finish {work.format}", _FINISH).line.seconds(_finished(work)),
            load=self._load_seconds(work.model),
            measured=bool(upscale.points) or self._pace(place, work.model) is not None,
        )

    async def load_seconds(self, model: ModelFiles) -> float:
        """Return how long it takes to load a network; 0 if that is part of every job.

        Raises:
            UnknownModelError: the model's file is missing.
        """
        await self._measure(model)
        return self._load_seconds(model)

    def _load_seconds(self, model: ModelFiles) -> float:
        if not self._place.traits.keeps_models:
            return 0.0
        return self._of(_load_key(self._place, model), self._load_guess(model)).line.fixed

    def observe(
        self, work: Work, place: Place, seconds: Mapping[str, float], tile_size: int
    ) -> None:
        """Learn from a job that succeeded at its first attempt.

        Args:
            work: what was done.
            place: where.
            seconds: time by stage: ``prepare``, ``upscale``, ``finish``.
            tile_size: the tile size in use; 0 if the engine did not report it.
        """
        if "prepare" in seconds:  # otherwise it was decoded on arrival
            self._learn(f"prepare {work.input_format}", _PREPARE, work.source.pixels,
                        seconds["prepare"])  # fmt: skip
        self._learn(f"finish {work.format}", _FINISH, _finished(work),
                    seconds.get("finish", 0.0))  # fmt: skip
        key, guess = self._upscale_key(place, work), self._guess(place, work.model)
        amount, taken = self._padded(work, place, tile_size), seconds.get("upscale", 0.0)
        cold = place.traits.keeps_models and key not in self._warm
        self._warm.add(key)
        known = self._of(key, guess)
        if cold and known.points:
            # The time beyond that of a warm job is the worker's start and the loading.
            extra = max(taken - known.line.seconds(amount), 1e-3)
            self._learn(_load_key(place, work.model), self._load_guess(work.model), 1.0, extra)
            return
        self._learn(key, guess, amount, taken)

    async def compare(self, work: Work, place: Place, seconds: float, tile_size: int) -> None:
        """Compare the engine time of a job in its measured method with what was measured."""
        exact = not (work.fast or work.tile_size or is_small(work.source))
        if place.is_cpu and exact and seconds >= _TELLING_SECONDS:
            amount = self._padded(work, place, tile_size)
            await self._methods.observe(work.model, seconds / amount)

    def _learn(self, key: str, guess: Line, amount: float, seconds: float) -> None:
        self._of(key, guess).add(amount, seconds)
        self._changed.add(key)

    def _of(self, key: str, guess: Line) -> LearnedLine:
        rate = self._rates.get(key)
        if rate is None or (not rate.points and rate.guess != guess):
            rate = self._rates[key] = LearnedLine(guess, self._kept.pop(key, []))
        return rate

    def _upscale_key(self, place: Place, work: Work) -> str:
        key = f"upscale {place.engine} {place.device.id} {place.device.name} {work.model.stem}"
        # Rates measured with another library do not apply.
        return f"{key} {self._library_of(work)}" if place.is_cpu else key

    def _library_of(self, work: Work) -> CpuLibrary:
        method = self._methods.of(work.model, work.source, fast=work.fast)
        return self._library if method is None else CpuLibrary(method.library)

    def _guess(self, place: Place, model: ModelFiles) -> Line:
        a_pixel = self._pace(place, model)
        if a_pixel is None:
            speed = CPU_WEIGHTS_PER_SECOND * self._cores if place.is_cpu else GPU_WEIGHTS_PER_SECOND
            a_pixel = guess_seconds(self._stored[model.stem], 1, speed)
        return Line(place.traits.startup_seconds, a_pixel)

    def _pace(self, place: Place, model: ModelFiles) -> float | None:
        """Return the seconds of each padded pixel that were measured while nothing else was going
        on.
        """
        return self._methods.pace(model) if place.is_cpu else None

    def _load_guess(self, model: ModelFiles) -> Line:
        return Line(self._stored[model.stem] / _LOAD_BYTES_PER_SECOND, 0.0)

    def inference_bytes(self, work: Work) -> int:
        """Return the peak memory in bytes of network and tiles, measured on the CPU."""
        plan = self._plan(work, self._place, work.tile_size)
        return plan.weight_memory + plan.tile_memory

    def _plan(self, work: Work, place: Place, tile_size: int) -> TilePlan:
        """Return the plan for ``work`` at ``place``, as far as it is known in advance."""
        model, source = work.model, work.source
        if not place.is_cpu:
            tile = tile_size or place.traits.default_tile
            return plan_on_gpu(model, source, tile=tile, threads=self._cores)
        try:
            return _plan_on_cpu(
                model,
                self._stored[model.stem],
                source,
                tile=tile_size,
                threads=self._cores,
                limit=self._engine_memory,
                shares=self._shares if is_small(source) else 1,
                library=self._library_of(work),
                method=self._methods.of(model, source, fast=work.fast),
            )
        except TooLittleMemoryError:  # the engine will report it; until then assume the minimum
            return plan_on_gpu(model, source, tile=SMALLEST_TILE, threads=self._cores)

    def _padded(self, work: Work, place: Place, tile_size: int) -> float:
        """Return the pixels that the network processes: the source's, plus each tile's padding."""
        side = self._plan(work, place, tile_size).tile
        across, down = math.ceil(work.source.width / side), math.ceil(work.source.height / side)
        pixels = (work.source.width + 2 * PADDING * across) * (
            work.source.height + 2 * PADDING * down
        )
        return float(pixels * (TTA_RUNS if work.tta else 1))


def _load_key(place: Place, model: ModelFiles) -> str:
    return f"load {place.engine} {place.device.id} {place.device.name} {model.stem}"


def _finished(work: Work) -> float:
    """Return the pixels that the last stage reads and writes."""
    return work.source.times(work.model.native_scale).pixels + work.output.pixels
