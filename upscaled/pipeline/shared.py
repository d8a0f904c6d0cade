"""The parts that all runs of the pipeline share."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.digests import Digests
from upscaled.engines.builtin.cpu_methods import CpuMethods, key_of
from upscaled.engines.engine import ModelFiles
from upscaled.engines.pool import EnginePool, Place
from upscaled.errors import EngineError
from upscaled.imaging import Imaging
from upscaled.jobs.job import Job
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pipeline.alternatives import Alternatives
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.open_bands import NoOtherWorkers, OtherWorkers
from upscaled.pipeline.result import IdentifiedModel

_TILE_SIZES = 256
"""Tile sizes that are remembered: one for each place, network and power of two of pixels."""


def nobody_told(_job_id: str, _done: Checkpoint) -> None:
    """Do nothing with a checkpoint: the next start reads it from the job's folder."""


class TileSizes:
    """Tile sizes that worked after the engine's own choice had failed; drops the oldest first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Place, Path, int], int] = OrderedDict()

    def get(self, place: Place, model: ModelFiles, pixels: int) -> int:
        """Return the tile size for a picture of about ``pixels``; 0 if none is known."""
        return self._known.get((place, model.param, pixels.bit_length()), 0)

    def remember(self, place: Place, model: ModelFiles, pixels: int, tile_size: int) -> None:
        """Use ``tile_size`` for pictures like this one from now on."""
        key = (place, model.param, pixels.bit_length())
        self._known[key] = tile_size
        self._known.move_to_end(key)
        if len(self._known) > _TILE_SIZES:
            self._known.popitem(last=False)


@dataclass(frozen=True)
class SharedParts:
    """The parts that all runs share."""

    imaging: Imaging
    pool: EnginePool
    models: ModelCatalog
    workspace: Workspace
    methods: CpuMethods = field(default_factory=CpuMethods)
    on_checkpoint: Callable[[str, Checkpoint], None] = nobody_told
    workers: OtherWorkers = field(default_factory=NoOtherWorkers)
    digests: Digests = field(default_factory=Digests)
    tile_sizes: TileSizes = field(default_factory=TileSizes)
    verifications: Counter[str] = field(default_factory=Counter)
    """Comparisons with the source: results that ``passed``, bands that were ``refused``."""

    async def identify(self, job: Job) -> IdentifiedModel:
        """Return the network that does a job's work.

        Raises:
            UnknownModelError: the model is not installed.
            EngineError: its files can't be read.
        """
        model = self.models.get(job.request.model_name)
        files = model.files_for(job.factor)
        param, weights = await self.meet(files)
        return IdentifiedModel(files, param, weights, model.license_of(files))

    async def meet(self, files: ModelFiles) -> tuple[str, str]:
        """Return the SHA-256 of a network's files; from then on `methods` knows the network.

        Raises:
            EngineError: they can't be read.
        """
        param, weights = await self.digest(files.param), await self.digest(files.bin)
        self.methods.meet(files, key_of(param, weights))
        return param, weights

    async def digest(self, path: Path) -> str:
        """Return the SHA-256 of a network's file or a program, in hexadecimal.

        Raises:
            EngineError: it can't be read.
        """
        try:
            return await self.digests.of(path)
        except OSError as error:
            raise EngineError(
                f"{path.name} can't be read: {error.strerror}.", retryable=False
            ) from error

    @property
    def alternatives(self) -> Alternatives:
        return Alternatives(self.imaging, self.pool, self.models)
