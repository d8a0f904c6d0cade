"""Admission: turns the caller's fields and picture into a job, or refuses them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from upscaled.callers import LOCAL, Caller
from upscaled.config.settings import Config
from upscaled.engines.memory import available
from upscaled.engines.selection import EngineChoice, check_memory
from upscaled.errors import (
    BadRequestError,
    NoMemoryError,
    NoSpaceError,
    UnusablePictureError,
    mib_above,
)
from upscaled.formats import INPUT_NAMES, RESULT_NAMES, PictureFormat, result_format
from upscaled.imaging import Imaging, Prepared, Probe
from upscaled.jobs.job import NAME_BYTES, Job, JobRequest, new_job_id, shortened
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.pictures import Size
from upscaled.pipeline.footprint import disk_bytes, memory_bytes
from upscaled.service.job_options import (
    JobOptions,
    output_format,
    output_size,
    parse_fields,
    whole_number,
)
from upscaled.submission_fields import SOURCE_FIELDS
from upscaled.webhooks.callbacks import Callbacks

DISK_RESERVE = 64 << 20
"""Disk space that stays free, for job records and active jobs."""


@dataclass(frozen=True)
class Admitted:
    """A job whose upload is in its folder, and what is known of it."""

    job: Job
    probe: Probe
    prepared: Prepared | None
    """Its decoded picture, if that was quick."""
    model: Model
    looked_at: bool
    """Whether it was decoded, or at least tried."""


class Admission:
    """Turns uploads into jobs, within the configured limits."""

    def __init__(
        self,
        config: Config,
        models: ModelCatalog,
        imaging: Imaging,
        workspace: Workspace,
        choice: EngineChoice,
        receivers: Callbacks,
    ) -> None:
        self._choice = choice
        self.receivers = receivers
        """Accepts the receivers of messages."""
        self._config = config
        self._models = models
        self._imaging = imaging
        self._workspace = workspace

    async def admit(
        self,
        fields: Mapping[str, str],
        upload: Path,
        filename: str,
        client: Caller = LOCAL,
        *,
        sha256: str = "",
        links_base: str = "",
        known: Probe | None = None,
        size: Size | None = None,
    ) -> Admitted:
        """Return the job for ``upload``, and move the file into the job's folder.

        If the picture is small, it is already decoded when this returns. `secure` must follow.

        Args:
            fields: those of the form.
            upload: the picture.
            filename: the picture's name.
            client: the caller.
            sha256: the picture's digest.
            links_base: what links in webhook messages start with.
            size: the exact size of the result, which ``fields`` then don't name.
            known: what an earlier look at the same picture found; it is not decoded then.

        Raises:
            OutboxFullError: too many webhook messages of the client are not delivered.
            BadRequestError: a field cannot be used.
            NotAPictureError: the upload is of no format we take.
            UnusablePictureError: it can't be upscaled as requested.
            NoSpaceError: the disk is full.
        """
        options = parse_fields(fields)
        upscaler = self._config.upscaler
        name = options.model_name if options.model_name is not None else upscaler.default_model
        model = await self._model(name)
        callback = await self.receivers.accept(
            options.callback_url,
            options.callback_events,
            owner=client.owner,
            links_base=links_base,
        )
        job_id = new_job_id()
        try:
            await self._workspace.adopt(upload, job_id)
            probe, prepared = (known, None) if known else await self._look_at(job_id, client.key)
            request = self._request(options, model, probe.size, probe.format, size)
        except BaseException:
            await self._workspace.remove(job_id)
            raise
        job = Job(
            id=job_id,
            request=request,
            input_name=shortened(filename, NAME_BYTES),
            input_format=probe.format,
            input_size=probe.size,
            created=time.time(),
            owner=client.owner,
            client=client.key,
            client_ref=options.client_ref,
            input_sha256=sha256,
            callback=callback,
        )
        return Admitted(job, probe, prepared, model, looked_at=known is None)

    async def secure(self, admitted: Admitted, *, works: bool = True) -> Prepared | None:
        """Bring the upload of an admitted job to the disk.

        Args:
            admitted: the job.
            works: it does its work itself, for which there must be room.

        Returns:
            The decoded picture of a job that does its work itself, if decoding it was quick.

        Raises:
            NoSpaceError: disk or memory would not hold what the job needs.
            UnusablePictureError: it can't be decoded.
        """
        job, prepared = admitted.job, admitted.prepared
        if works:
            await self._check_room(job.request, admitted.model, admitted.probe)
            if prepared is None and not admitted.looked_at:
                _, prepared = await self._look_at(job.id, job.client)
        await self._workspace.flush(job.id)
        return prepared

    async def probe(self, upload: Path, client: Caller) -> Probe:
        """Return size and format of an upload without decoding it.

        Raises:
            NotAPictureError: the upload is of no format we take.
            UnusablePictureError: it can't be upscaled.
        """
        return await self._imaging.probe(upload, caller=client.key)

    async def _look_at(self, job_id: str, caller: str) -> tuple[Probe, Prepared | None]:
        upload, folder = self._workspace.upload_of(job_id), self._workspace.folder(job_id)
        return await self._imaging.receive(upload, folder, caller=caller)

    async def plan(
        self, fields: Mapping[str, str], upload: Path | None, client: Caller = LOCAL
    ) -> Job:
        """Return the job that a submission would create, without creating it.

        Args:
            fields: those of a submission; without ``upload``, also the two `SOURCE_FIELDS`.
            upload: the picture, if it was sent.
            client: the caller.

        Raises:
            BadRequestError: a field cannot be used.
            NotAPictureError: the upload is of no format we take.
            UnusablePictureError: it can't be upscaled as requested.
        """
        given = [name for name in SOURCE_FIELDS if name in fields]
        options = parse_fields({name: fields[name] for name in fields if name not in given})
        name = options.model_name
        model = await self._model(self._config.upscaler.default_model if name is None else name)
        if upload is not None:
            if given:
                raise BadRequestError("Give either image or input_width and input_height.")
            probe = await self.probe(upload, client)
            size, format_ = probe.size, probe.format
        else:
            size, format_ = self._source_size(fields), INPUT_NAMES[0]
        return Job(
            id=new_job_id(),
            request=self._request(options, model, size, format_),
            input_name="",
            input_format=format_,
            input_size=size,
            created=time.time(),
        )

    def _source_size(self, fields: Mapping[str, str]) -> Size:
        sides = [
            whole_number(
                fields, name, lambda v: 1 <= v <= 1_000_000, "between 1 and 1000000 pixels"
            )
            for name in SOURCE_FIELDS
        ]
        if sides[0] is None or sides[1] is None:
            raise BadRequestError(
                "Send the picture as image, or its size as input_width and input_height."
            )
        size = Size(sides[0], sides[1])
        most = self._config.limits.max_input_megapixels
        if size.pixels > most * 1_000_000:
            raise UnusablePictureError(
                f"The picture has {size.pixels / 1_000_000:.1f} megapixels, but the server takes "
                f"at most {most:g}; make it smaller first."
            )
        return size

    async def _model(self, name: str) -> Model:
        # A model that was added a moment ago is found without a restart.
        if all(model.name != name for model in self._models.models):
            await self._models.rescan()
        return self._models.get(name)

    def _request(
        self,
        options: JobOptions,
        model: Model,
        source: Size,
        input_format: str,
        exact: Size | None = None,
    ) -> JobRequest:
        upscaler = self._config.upscaler
        size = exact or output_size(source, options, upscaler.default_scale)
        format_ = output_format(options.format, input_format)
        most = self._config.limits.max_output_megapixels
        if size.pixels > most * 1_000_000:
            raise UnusablePictureError(
                f"The result would have {size.pixels / 1_000_000:.1f} megapixels, but the server "
                f"makes at most {most:g}; use a smaller scale or picture."
            )
        row, side = result_format(format_), max(size.width, size.height)
        if side > row.largest_side:
            fitting = [name for name in RESULT_NAMES if side <= result_format(name).largest_side]
            raise UnusablePictureError(
                f"The result would have {size} pixels, but {format_} holds at most "
                f"{row.largest_side} a side; use format={' or format='.join(fitting)}, "
                "or a smaller scale."
            )
        if options.lossless and not row.has_lossless:
            raise BadRequestError(
                f"lossless is for {_named(lambda row: row.has_lossless)}; "
                f"this result would be {format_}."
            )
        if options.quality is not None and not row.has_quality:
            raise BadRequestError(
                f"quality is for {_named(lambda row: row.has_quality)}; {format_} has none."
            )
        sized = exact is not None or options.width is not None or options.height is not None
        return JobRequest(
            model_name=model.name,
            scale=None if sized else options.scale or upscaler.default_scale,
            output_size=size,
            format=format_,
            tile_size=upscaler.tile_size if options.tile_size is None else options.tile_size,
            tta=options.tta,
            precision=options.precision,
            quality=options.quality,
            lossless=options.lossless,
            background=options.background,
            keep_metadata=options.keep_metadata,
        )

    def _check_limit(self, request: JobRequest, probe: Probe) -> int:
        """Refuse a job for which the limit of memory is too small; return the bytes it needs."""
        memory = memory_bytes(probe.size, request.output_size, request.format)
        most = self._config.limits.imaging_memory_mb << 20
        if memory > most:
            raise NoMemoryError(
                f"The job needs about {mib_above(memory)} MiB of memory but may use at most "
                f"{most >> 20} MiB (limits.imaging_memory_mb); use a smaller scale or picture.",
                need=memory,
                free=most,
            )
        return memory

    async def _check_room(self, request: JobRequest, model: Model, probe: Probe) -> None:
        """Refuse a job for which disk or memory is too small."""
        files = model.files_for(request.factor(probe.size))
        native = files.native_scale
        with contextlib.suppress(OSError):  # the job will report what is wrong with its files
            await asyncio.to_thread(check_memory, self._config, self._choice, files)
        memory = self._check_limit(request, probe)
        most = await asyncio.to_thread(available)
        if memory > most:
            raise NoMemoryError(
                f"The job needs about {memory >> 20} MiB of memory and {most >> 20} MiB are "
                "available; use a smaller scale or picture.",
                need=memory,
                free=most,
            )
        need = disk_bytes(
            probe.size, request.output_size, native, request.format,
            frees_parts=self._workspace.frees_parts,
        )  # fmt: skip
        free = await self._workspace.free_bytes(need + DISK_RESERVE) - DISK_RESERVE
        if need > free:
            free = max(0, free)
            raise NoSpaceError(
                f"The job needs about {mib_above(need)} MiB on the server's disk and "
                f"{free >> 20} MiB are free; use a smaller scale, or make room in "
                "storage.data_dir.",
                need=need,
                free=free,
            )


def _named(has: Callable[[PictureFormat], bool]) -> str:
    return " and ".join(f"format={name}" for name in RESULT_NAMES if has(result_format(name)))
