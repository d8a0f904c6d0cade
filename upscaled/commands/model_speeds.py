"""How quick each model is on this machine, for the command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from upscaled.config.settings import Config
from upscaled.digests import Digests
from upscaled.engines import memory
from upscaled.engines.builtin.cpu_methods import key_of
from upscaled.engines.selection import (
    choose,
    cpu_threads,
    make_pool,
    open_methods,
    worker_memory_mb,
)
from upscaled.jobs.learned_rates import LearnedRates
from upscaled.models.catalog import ModelCatalog
from upscaled.timing.estimator import Estimator
from upscaled.timing.speeds import ModelSpeed, Speeds


async def speeds_of(catalog: ModelCatalog, config: Config) -> Mapping[str, Sequence[ModelSpeed]]:
    """Return the speed of each network by model, as a server with these settings tells it.

    Raises:
        UpscaledError: no engine can be chosen, or a model has just gone.
    """
    async with _opened(catalog, config) as speeds:
        return {model.name: await speeds.of(model) for model in catalog.models}


async def advice_of(catalog: ModelCatalog, config: Config) -> str | None:
    """Return a sentence about the default model's speed and what is quicker; None if it is quick
    or not there.

    Raises:
        UpscaledError: as `speeds_of`.
    """
    default = config.upscaler.default_model
    model = next((model for model in catalog.models if model.name == default), None)
    if model is None:
        return None
    async with _opened(catalog, config) as speeds:
        return await speeds.advice(model)


@asynccontextmanager
async def _opened(catalog: ModelCatalog, config: Config) -> AsyncIterator[Speeds]:
    """Yield a comparison of the models' speeds for the block."""
    choice = await choose(config)
    methods = await open_methods(config, choice, config.methods_file)
    pool = make_pool(config, choice)
    try:
        estimator = Estimator(
            pool.places[0],
            cpu_threads(config),
            await asyncio.to_thread(memory.ceiling, worker_memory_mb(config, choice)),
            LearnedRates(config.data_dir / "jobs.sqlite3"),
            shares=pool.shares(pool.places[0]),
            library=choice.library,
            methods=methods,
        )
        await estimator.load()
        digests = Digests()
        for model in catalog.models:
            for files in model.files.values():
                methods.meet(
                    files, key_of(await digests.of(files.param), await digests.of(files.bin))
                )
        yield Speeds(catalog, estimator)
    finally:
        await pool.close()


def shown_speed(speeds: Sequence[ModelSpeed]) -> str:
    """Return for example ``  3.1 s/MP`` or ``  about 90 s/MP``; "" where nothing is known."""
    if not speeds:
        return ""
    seconds = sorted(speed.seconds_per_megapixel for speed in speeds)
    least, most = f"{seconds[0]:.2g}", f"{seconds[-1]:.2g}"
    if seconds[0] >= 100:
        least, most = f"{seconds[0]:.0f}", f"{seconds[-1]:.0f}"
    about = "" if all(speed.measured for speed in speeds) else "about "
    return f"  {about}{least if least == most else f'{least} to {most}'} s/MP"
