"""The pipeline: makes a run for each job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from upscaled.engines.builtin.cpu_methods import CpuMethods
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.pool import EnginePool
from upscaled.imaging import Imaging, Prepared
from upscaled.jobs.job import FAST, Job
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.open_bands import NoOtherWorkers, OtherWorkers
from upscaled.pipeline.result import IdentifiedModel, RunCallbacks
from upscaled.pipeline.run import PipelineRun
from upscaled.pipeline.shared import SharedParts, nobody_told


class Pipeline:
    """Makes the runs of jobs and owns what they share. Knows nothing of job states.

    Args:
        imaging: decodes and encodes.
        pool: the slots.
        models: the installed models.
        workspace: holds the files of jobs.
        methods: to run networks on the CPU, measured.
        on_checkpoint: called with a job's id and what is done of it after each band but the last.
        workers: other machines that may do bands of a large picture; None: there are none.
    """

    def __init__(
        self,
        imaging: Imaging,
        pool: EnginePool,
        models: ModelCatalog,
        workspace: Workspace,
        methods: CpuMethods | None = None,
        on_checkpoint: Callable[[str, Checkpoint], None] = nobody_told,
        workers: OtherWorkers | None = None,
    ) -> None:
        self._shared = SharedParts(
            imaging, pool, models, workspace, methods or CpuMethods(), on_checkpoint,
            workers or NoOtherWorkers(),
        )  # fmt: skip

    @property
    def verifications(self) -> Mapping[str, int]:
        """How many results ``passed`` the comparison with their source, or were ``refused``."""
        return self._shared.verifications

    def run(
        self, job: Job, callbacks: RunCallbacks, *, prepared: Prepared | None = None, rank: int = 0
    ) -> PipelineRun:
        """Return a run of ``job`` that has not started; see `PipelineRun`."""
        return PipelineRun(self._shared, job, callbacks, prepared=prepared, rank=rank)

    async def identify(self, job: Job) -> IdentifiedModel:
        """Return the network that does a job's work; see `SharedParts.identify`."""
        return await self._shared.identify(job)

    def method_of(self, job: Job, model: IdentifiedModel) -> CpuMethod | None:
        """Return the method in which the network will be run for a new job; None: by the rule."""
        fast = job.request.precision == FAST
        return self._shared.methods.of(model.files, job.input_size, fast=fast)

    async def meet_default(self, name: str, scale: float) -> None:
        """Register a model's network with the measured methods; see `SharedParts.meet`."""
        await self._shared.meet(self._shared.models.get(name).files_for(scale))

    async def digest(self, path: Path) -> str:
        """Return the SHA-256 of a program; see `SharedParts.digest`."""
        return await self._shared.digest(path)
