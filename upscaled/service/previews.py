"""Previews: a small part of a picture, upscaled at once and without a job."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from upscaled.callers import Caller
from upscaled.config.settings import Config
from upscaled.engines.builtin.cpu_methods import CpuMethods
from upscaled.engines.engine import UpscaleTask
from upscaled.engines.pool import EnginePool
from upscaled.errors import BadRequestError, QueueFullError, UnsuitableModelError
from upscaled.imaging import (
    PLAUSIBLE_LIMIT,
    Band,
    Box,
    FinishOptions,
    Imaging,
    Prepared,
    UnlikeError,
)
from upscaled.jobs.job import FAST
from upscaled.jobs.workspace import Workspace, claim
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.pictures import RawImage
from upscaled.service.job_options import SCALES, precision_of, whole_number

FIELD_NAMES = ("model_name", "scale", "precision", "x", "y", "width", "height")
_LARGEST_PLACE = 1_000_000
_SECONDS = 60.0
"""How long a preview may take from its start on an engine."""
_WAITING = 16
"""Previews that may wait or run altogether, …"""
_WAITING_PER_CALLER = 4
"""… and for one caller."""


@dataclass(frozen=True)
class Preview:
    """An enlarged part of a picture."""

    png: bytes
    model_name: str
    scale: int
    seconds: float
    """Of the engine's work and what goes with it, without waiting."""


class Previews:
    """Upscales parts of pictures, ahead of jobs.

    Args:
        config: the settings.
        models: the catalog.
        imaging: decodes the pictures. Its processes are not those of jobs.
        pool: the engines.
        workspace: holds the files of a preview while it is made.
    """

    def __init__(
        self,
        config: Config,
        models: ModelCatalog,
        imaging: Imaging,
        pool: EnginePool,
        workspace: Workspace,
        methods: CpuMethods,
    ) -> None:
        self._config = config
        self._models = models
        self._imaging = imaging
        self._pool = pool
        self._workspace = workspace
        self._methods = methods
        self._callers: Counter[str] = Counter()

    @property
    def being_made(self) -> int:
        """How many previews are being made, or wait for it."""
        return self._callers.total()

    async def make(self, fields: Mapping[str, str], upload: Path, client: Caller) -> Preview:
        """Return the preview of ``upload`` that ``fields`` ask for.

        When this is cancelled, its work is ended and its files are deleted.

        Raises:
            BadRequestError: a field cannot be used.
            NotAPictureError: the upload is of no format we take.
            UnusablePictureError: it can't be decoded.
            UnsuitableModelError: the model makes something else of the part.
            QueueFullError: too many previews are being made.
            EngineError: the engine failed.
        """
        scale, box = self._scale(fields), self._box(fields)
        fast = precision_of(fields.get("precision")) == FAST
        model = await self._model(fields.get("model_name"))
        with self._counted(client.key):
            async with self._workspace.borrowed() as folder:
                prepared = await self._imaging.crop(upload, folder, box, caller=client.key)
                return await self._upscaled(prepared, model, scale, folder, fast=fast)

    def _scale(self, fields: Mapping[str, str]) -> int:
        scale = whole_number(fields, "scale", lambda v: v in SCALES, "2, 3 or 4")
        return self._config.upscaler.default_scale if scale is None else scale

    def _box(self, fields: Mapping[str, str]) -> Box:
        places = [
            whole_number(
                fields, name, lambda v: v <= _LARGEST_PLACE, "between 0 and 1000000 pixels"
            )
            for name in ("x", "y")
        ]
        sides = [
            whole_number(
                fields, name, lambda v: 1 <= v <= _LARGEST_PLACE, "between 1 and 1000000 pixels"
            )
            for name in ("width", "height")
        ]
        return Box(places[0], places[1], sides[0], sides[1], self._config.limits.preview_pixels)

    async def _model(self, name: str | None) -> Model:
        name = self._config.upscaler.default_model if name is None else name
        if all(model.name != name for model in self._models.models):
            await self._models.rescan()
        return self._models.get(name)

    @contextlib.contextmanager
    def _counted(self, caller: str) -> Iterator[None]:
        if self._callers.total() >= _WAITING or self._callers[caller] >= _WAITING_PER_CALLER:
            raise QueueFullError(
                "Too many previews are being made; try again in 2 s.", headers={"Retry-After": "2"}
            )
        self._callers[caller] += 1
        try:
            yield
        finally:
            self._callers[caller] -= 1
            self._callers += Counter()  # removes the zeros

    async def _upscaled(
        self, prepared: Prepared, model: Model, scale: int, folder: Path, *, fast: bool
    ) -> Preview:
        source, files = prepared.source, model.files_for(scale)
        native = RawImage(folder / "native.rgb", source.size.times(files.native_scale))
        await claim(native.path, native.total_bytes, keep=False)
        task = UpscaleTask(
            source, native, files, top=0, bottom=source.size.height, workdir=folder,
            method=self._methods.of(files, source.size, fast=fast),
        )  # fmt: skip
        async with self._pool.slot_beside() as slot:
            began = time.monotonic()
            try:
                async with asyncio.timeout(_SECONDS):
                    await slot.engine.upscale(task, lambda _: None)
            except TimeoutError:
                raise QueueFullError(
                    f"The preview took longer than {_SECONDS:g} s; try a smaller part, or again "
                    "when the server is less busy.",
                    headers={"Retry-After": "10"},
                ) from None
        options = FinishOptions(
            format="png",
            size=source.size.times(scale),
            quality=None,
            lossless=False,
            background=(255, 255, 255),
            keep_metadata=False,
        )
        # No second process confirms a preview, so it need be plausible only.
        band = Band(0, source.size.height, PLAUSIBLE_LIMIT)
        try:
            written = await self._imaging.finish(prepared, native, folder, options, band)
        except UnlikeError as error:
            raise UnsuitableModelError(
                f"{model.name} makes a picture that is unlike this part: {error.message} Choose "
                "another model or another part."
            ) from None
        if written.finished is None:
            raise BadRequestError("The preview is not complete.")
        png = await asyncio.to_thread(written.finished.path.read_bytes)
        return Preview(png, model.name, scale, time.monotonic() - began)
