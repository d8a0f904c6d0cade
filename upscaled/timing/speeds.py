"""How quick each model is on this machine, and which one is quicker than the chosen one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from upscaled.errors import UnknownModelError
from upscaled.models.card import Purpose
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.pictures import Size
from upscaled.timing.estimator import Estimate, Estimator, Work

_MEGAPIXEL = Size(1000, 1000)
_WORTHWHILE_SECONDS = 10.0
"""A job that takes less needs no advice."""
_WORTHWHILE_RATIO = 3.0
SMALL_FOR_PHOTOS = "realesr-general-x4v3"
"""The official small network for photos, which `upscaled setup --photo-fast` installs."""


@dataclass(frozen=True)
class ModelSpeed:
    """The time of one of a model's networks in a slot, once it is loaded."""

    scale: int
    """The network's own."""
    seconds_per_megapixel: float
    """For a source of 1000×1000 pixels."""
    measured: bool
    """False if it is a guess, since the network has not run here yet."""


@dataclass(frozen=True)
class Quicker:
    """A model that takes a third of the time or less."""

    model_name: str
    description: str
    seconds: float


class Speeds:
    """Compares models by the estimates of their work.

    Args:
        models: the installed ones.
        estimator: estimates how long work takes.
    """

    def __init__(self, models: ModelCatalog, estimator: Estimator) -> None:
        self._models = models
        self._estimator = estimator

    async def of(self, model: Model) -> list[ModelSpeed]:
        """Return the speed of each of the model's networks.

        Raises:
            UnknownModelError: a file of it is gone.
        """
        found = []
        for scale, files in model.files.items():
            work = Work(files, _MEGAPIXEL, _MEGAPIXEL.times(scale), "PNG", "png")
            await self._estimator.meet(work)
            estimate = self._estimator.estimate(work)
            found.append(ModelSpeed(scale, estimate.upscale, estimate.measured))
        return found

    async def advice(self, model: Model) -> str | None:
        """Return a sentence about a slow model and what is quicker; None if it is quick."""
        speeds = {scale.scale: scale for scale in await self.of(model)}
        speed = speeds[max(speeds)]
        if speed.seconds_per_megapixel < _WORTHWHILE_SECONDS:
            return None
        megapixel = Work(
            model.files[speed.scale], _MEGAPIXEL, _MEGAPIXEL.times(speed.scale), "PNG", "png"
        )
        quicker = await self.quicker(model.name, megapixel, self._estimator.estimate(megapixel))
        sentence = (
            f"{model.name} takes about {speed.seconds_per_megapixel:.0f} s for a megapixel here."
        )
        if quicker is not None:
            sentence += (
                f" {quicker.model_name} ({quicker.description}) takes {quicker.seconds:.0f} s."
            )
        if not any(other.name == SMALL_FOR_PHOTOS for other in self._models.models):
            sentence += " `upscaled setup --photo-fast` installs a small model for photos."
        return sentence

    async def compare(self, work: Work) -> list[tuple[Model, Estimate]]:
        """Return what the same job takes with each model that enlarges as far."""
        scale = work.output.width / work.source.width
        found = []
        for model in self._models.models:
            if max(model.supported_scales) < round(scale, 2):
                continue
            other = dataclasses.replace(work, model=model.files_for(scale))
            try:
                await self._estimator.meet(other)
            except UnknownModelError:  # just removed
                continue
            found.append((model, self._estimator.estimate(other)))
        return found

    async def quicker(self, chosen: str, work: Work, estimate: Estimate) -> Quicker | None:
        """Return another model that is much quicker for the same job, if there is one.

        Of several it is one for the same kind of pictures, as far as their cards tell, and the
        quickest of those.

        Args:
            chosen: the name of the job's model.
            work: the job's.
            estimate: of that work.
        """
        if estimate.total < _WORTHWHILE_SECONDS:
            return None
        models = {model.name: model for model in self._models.models}
        wanted = models[chosen].card.purpose if chosen in models else Purpose.UNKNOWN
        best: tuple[int, float, Model] | None = None
        for model, other in await self.compare(work):
            rank = _distance(wanted, model.card.purpose)
            if (
                model.name != chosen
                and other.total * _WORTHWHILE_RATIO <= estimate.total
                and (best is None or (rank, other.total) < best[:2])
            ):
                best = rank, other.total, model
        if best is None:
            return None
        _, seconds, model = best
        return Quicker(model.name, model.description, seconds)


def _distance(wanted: Purpose, offered: Purpose) -> int:
    """Return how far a model's purpose is from the wanted one; what is unknown comes last."""
    if offered is Purpose.UNKNOWN:
        return 3
    if offered is wanted:
        return 0
    return 1 if Purpose.ANY in {wanted, offered} or wanted is Purpose.UNKNOWN else 2
