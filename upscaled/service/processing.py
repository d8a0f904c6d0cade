"""Processing: the parts that do jobs, on a single machine and on a cluster's worker."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.engines.builtin.cpu_methods import CpuMethods
from upscaled.engines.pool import EnginePool
from upscaled.engines.selection import (
    EngineChoice,
    choose,
    make_pool,
    open_methods,
    worker_memory_mb,
)
from upscaled.errors import ConfigError, UpscaledError
from upscaled.imaging import Imaging
from upscaled.jobs.order import Order, make_order
from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.footprint import TimeLimit
from upscaled.pipeline.open_bands import OtherWorkers
from upscaled.pipeline.pipeline import Pipeline
from upscaled.pipeline.shared import nobody_told
from upscaled.service.background import run_in_background
from upscaled.service.dispatcher import Dispatcher
from upscaled.service.health import Health
from upscaled.service.self_test import SelfTest
from upscaled.service.sharing import SharedWork
from upscaled.timing.estimator import RateStore
from upscaled.timing.timing import JobTiming, make_job_timing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processing:
    """The parts that do jobs, and those that know how long that takes."""

    choice: EngineChoice
    pool: EnginePool
    health: Health
    methods: CpuMethods
    pipeline: Pipeline
    queue: JobQueue
    timing: JobTiming
    shared: SharedWork


async def open_processing(
    config: Config,
    closing: contextlib.AsyncExitStack,
    *,
    models: ModelCatalog,
    imaging: Imaging,
    workspace: Workspace,
    registry: JobRegistry,
    rates: RateStore,
    cache: ResultCache,
    methods_file: Path | None = None,
    order: Order | None = None,
    joins: bool = False,
    needs_default_model: bool = True,
    on_checkpoint: Callable[[str, Checkpoint], None] = nobody_told,
    workers: OtherWorkers | None = None,
) -> Processing:
    """Select the engine and build the parts around it; ``closing`` ends them.

    Args:
        config: the settings.
        closing: what is to be closed at the end.
        models: the catalog; it is read here.
        imaging: decodes and encodes.
        workspace: holds the files of jobs.
        registry: knows the jobs.
        rates: keeps how long work took.
        cache: keeps results.
        methods_file: measurements of the methods to run networks; None: the data folder's own.
        order: who is next; None: what the settings say.
        joins: jobs may join identical ones.
        needs_default_model: False where every job names its model.
        on_checkpoint: see `Pipeline`.
        workers: see `Pipeline`.

    Raises:
        ConfigError: something that the settings require is missing.
    """
    # It takes as long as the look for devices, and the first picture waits for both.
    run_in_background(closing, lambda: _warm(imaging), "decoder")
    choice = await choose(config)
    log.info("Engine: %s (%s).", choice.engine, choice.reason)
    await models.rescan()
    if needs_default_model:
        check_default_model(config, models)
    pool = make_pool(config, choice)
    closing.push_async_callback(pool.close)
    trial = SelfTest(pool, models, imaging, workspace, config.upscaler.default_model)
    health = Health(trial.run, lambda: not registry.active())
    methods = await open_methods(config, choice, methods_file or config.methods_file)
    pipeline = Pipeline(imaging, pool, models, workspace, methods, on_checkpoint, workers)
    queue = JobQueue(order or make_order(config.limits.scheduling, choice.traits.models_kept))
    timing = await make_job_timing(
        models, pool, queue, registry, rates,
        threads=config.upscaler.threads,
        engine_memory_mb=worker_memory_mb(config, choice),
        library=choice.library, methods=methods, frees_parts=workspace.frees_parts,
    )  # fmt: skip
    closing.push_async_callback(timing.close)
    shared = SharedWork(cache, workspace, pipeline, choice, joins=joins)
    return Processing(choice, pool, health, methods, pipeline, queue, timing, shared)


async def _warm(imaging: Imaging) -> None:
    with contextlib.suppress(UpscaledError):  # whoever needs it is told
        await imaging.warm()


def make_dispatcher(
    config: Config, parts: Processing, registry: JobRegistry, workspace: Workspace
) -> Dispatcher:
    """Return the dispatcher that feeds jobs to these parts."""
    return Dispatcher(
        registry,
        parts.queue,
        parts.pipeline,
        workspace,
        parts.health,
        timing=parts.timing,
        shared=parts.shared,
        slots=parts.pool.most_at_once,
        time_limit=TimeLimit(
            config.upscaler.job_timeout_seconds, config.upscaler.job_seconds_per_megapixel
        ),
    )


def check_default_model(config: Config, models: ModelCatalog) -> None:
    """Refuse a default model that is not installed, unless there is no model at all.

    Raises:
        ConfigError: it is not installed.
    """
    names = [model.name for model in models.models]
    if not names:
        log.warning(
            "There is no model in %s; `upscaled models install` puts them there.",
            config.models_dir,
        )
    elif config.upscaler.default_model not in names:
        raise ConfigError(
            f"upscaler.default_model is {config.upscaler.default_model!r}; it must "
            f"be an installed model: {', '.join(names)}."
        )
