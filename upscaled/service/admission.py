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
from upscaled.errors import BadRequestError, NoMemoryError, NoSpaceError, UnusablePictureError
from upscaled.fields import CALLBACK_FIELDS, FIELDS, SOURCE_FIELDS
from upscaled.formats import (
    INPUT_NAMES,
    RESULT_NAMES,
    PictureFormat,
    alternatives,
    by_alias,
    result_format,
    result_format_for,
)
from upscaled.imaging import Imaging, Prepared, Probe
from upscaled.jobs.job import NAME_BYTES, Job, JobRequest, new_job_id, shortened
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.pictures import Size
from upscaled.pipeline.footprint import disk_bytes, memory_bytes
from upscaled.webhooks import callbacks
from upscaled.webhooks.callbacks import Callbacks

SCALES = (2, 3, 4)
LABEL_CHARACTERS = 200
"""The longest label of a caller's own."""
LARGEST_FACTOR = 16.0
"""Largest factor by which a result may exceed its source along a side."""

DISK_RESERVE = 64 << 20
"""Disk space that stays free, for job records and active jobs."""


@dataclass(frozen=True)
class Wishes:
    """The fields as typed values; None if the caller omitted one."""

    scale: int | None
    model_name: str | None
    format: str | None
    tile_size: int | None
    width: int | None
    height: int | None
    tta: bool
    quality: int | None
    lossless: bool
    background: tuple[int, int, int]
    keep_metadata: bool
    client_ref: str | None
    callback_url: str | None
    callback_events: str | None


def parse_fields(fields: Mapping[str, str]) -> Wishes:
    """Convert form fields to typed values.

    Raises:
        BadRequestError: a field is unknown, wrong or contradicts another one.
    """
    known = (*FIELDS, *CALLBACK_FIELDS)
    for name in fields:
        if name not in known:
            raise BadRequestError(
                f"There is no field {name[:64]!r}; allowed are image, {', '.join(known)}."
            )
    wishes = Wishes(
        scale=whole_number(fields, "scale", lambda v: v in SCALES, "2, 3 or 4"),
        model_name=fields.get("model_name"),
        format=_format(fields.get("format")),
        tile_size=whole_number(
            fields, "tile_size", lambda v: v == 0 or 32 <= v <= 4096, "0 (automatic) or 32 to 4096"
        ),
        width=whole_number(fields, "width", lambda v: 1 <= v <= 1_000_000, "1 to 1000000 pixels"),
        height=whole_number(fields, "height", lambda v: 1 <= v <= 1_000_000, "1 to 1000000 pixels"),
        tta=_boolean(fields, "tta", default=False),
        quality=whole_number(fields, "quality", lambda v: 1 <= v <= 100, "1 to 100"),
        lossless=_boolean(fields, "lossless", default=False),
        background=_colour(fields.get("background")),
        keep_metadata=_boolean(fields, "keep_metadata", default=True),
        client_ref=_label(fields.get("client_ref")),
        callback_url=fields.get("callback_url"),
        callback_events=fields.get("callback_events"),
    )
    callbacks.parse_events(wishes.callback_events)
    if wishes.scale is not None and (wishes.width is not None or wishes.height is not None):
        raise BadRequestError("Give either scale or width/height, not both.")
    if wishes.quality is not None and wishes.lossless:
        raise BadRequestError("Give either quality or lossless=true, not both.")
    return wishes


def fields_of(job: Job) -> dict[str, str]:
    """Return the fields of a submission that would create ``job`` again, without its size."""
    request = job.request
    red, green, blue = request.background
    fields = {
        "model_name": request.model_name,
        "format": request.format,
        "tile_size": str(request.tile_size),
        "tta": _word(request.tta),
        "lossless": _word(request.lossless),
        "background": f"#{red:02x}{green:02x}{blue:02x}",
        "keep_metadata": _word(request.keep_metadata),
    }
    if request.scale is not None:
        fields["scale"] = str(request.scale)
    if request.quality is not None:
        fields["quality"] = str(request.quality)
    if job.client_ref is not None:
        fields["client_ref"] = job.client_ref
    if job.callback is not None:
        fields["callback_url"] = job.callback.url
        fields["callback_events"] = ",".join(job.callback.events)
    return fields


def _word(value: bool) -> str:
    return "true" if value else "false"


def _refusal(name: str, text: str, allowed: str) -> BadRequestError:
    return BadRequestError(f"The field {name} is {text[:64]!r}; allowed is {allowed}.")


def whole_number(
    fields: Mapping[str, str], name: str, allows: Callable[[int], bool], allowed: str
) -> int | None:
    """Return a field as a whole number; None if it was not sent.

    Raises:
        BadRequestError: it is not one that ``allows`` takes; ``allowed`` says what it does.
    """
    text = fields.get(name)
    if text is None:
        return None
    digits = text.strip()
    if digits.isascii() and digits.isdigit() and len(digits) <= 9 and allows(int(digits)):
        return int(digits)
    raise _refusal(name, text, allowed)


def _label(text: str | None) -> str | None:
    if text is not None and (len(text) > LABEL_CHARACTERS or not text.isprintable()):
        allowed = f"up to {LABEL_CHARACTERS} printable characters"
        raise _refusal("client_ref", text, allowed)
    return text


def _boolean(fields: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = fields.get(name)
    if text is None:
        return default
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    if value is None:
        raise _refusal(name, text, "true or false")
    return value


def _format(text: str | None) -> str | None:
    if text is None:
        return None
    row = by_alias(text)
    if row is None:
        raise _refusal("format", text, alternatives(RESULT_NAMES))
    return row.result_name


def _named(has: Callable[[PictureFormat], bool]) -> str:
    return " and ".join(f"format={name}" for name in RESULT_NAMES if has(result_format(name)))


def _colour(text: str | None) -> tuple[int, int, int]:
    if text is None:
        return (255, 255, 255)
    digits = text.strip().removeprefix("#")
    if len(digits) == 6 and all(c in "0123456789abcdefABCDEF" for c in digits):
        return (int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16))
    raise _refusal("background", text, "a colour such as #ffffff")


def output_format(wanted: str | None, input_format: str) -> str:
    """Return the result's format: the requested one, else the upload's if we can write it."""
    return wanted if wanted is not None else result_format_for(input_format).result_name


def output_size(source: Size, wishes: Wishes, default_scale: int) -> Size:
    """Return the promised size of the result.

    Width and height are limits into which the result is fitted; its proportions are kept.

    Raises:
        BadRequestError: the requested size is smaller than the picture, or far too large.
    """
    if wishes.width is None and wishes.height is None:
        return source.times(wishes.scale or default_scale)
    factor = min(
        wishes.width / source.width if wishes.width is not None else float("inf"),
        wishes.height / source.height if wishes.height is not None else float("inf"),
    )
    if factor < 1:
        raise BadRequestError(
            f"The picture has {source} pixels already, more than the wanted width or height; "
            "ask for more."
        )
    if factor > LARGEST_FACTOR:
        raise BadRequestError(
            f"The picture has {source} pixels; at most {LARGEST_FACTOR:g} times that can be "
            "asked for."
        )
    return Size(max(1, round(source.width * factor)), max(1, round(source.height * factor)))


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
        self._receivers = receivers
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
        wishes = parse_fields(fields)
        upscaler = self._config.upscaler
        name = wishes.model_name if wishes.model_name is not None else upscaler.default_model
        model = await self._model(name)
        callback = await self._receivers.accept(
            wishes.callback_url,
            wishes.callback_events,
            owner=client.owner,
            links_base=links_base,
        )
        job_id = new_job_id()
        await self._workspace.adopt(upload, job_id)
        try:
            probe, prepared = (known, None) if known else await self._look_at(job_id, client.key)
            request = self._request(wishes, model, probe.size, probe.format, size)
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
            client_ref=wishes.client_ref,
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
        wishes = parse_fields({name: fields[name] for name in fields if name not in given})
        name = wishes.model_name
        model = await self._model(self._config.upscaler.default_model if name is None else name)
        if upload is not None:
            if given:
                raise BadRequestError("Give either image or input_width and input_height.")
            probe = await self._imaging.probe(upload, caller=client.key)
            size, format_ = probe.size, probe.format
        else:
            size, format_ = self._source_size(fields), INPUT_NAMES[0]
        return Job(
            id=new_job_id(),
            request=self._request(wishes, model, size, format_),
            input_name="",
            input_format=format_,
            input_size=size,
            created=time.time(),
        )

    def _source_size(self, fields: Mapping[str, str]) -> Size:
        sides = [
            whole_number(fields, name, lambda v: 1 <= v <= 1_000_000, "1 to 1000000 pixels")
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
        wishes: Wishes,
        model: Model,
        source: Size,
        input_format: str,
        exact: Size | None = None,
    ) -> JobRequest:
        upscaler = self._config.upscaler
        size = exact or output_size(source, wishes, upscaler.default_scale)
        format_ = output_format(wishes.format, input_format)
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
        if wishes.lossless and not row.has_lossless:
            raise BadRequestError(
                f"lossless is for {_named(lambda row: row.has_lossless)}; "
                f"this result would be {format_}."
            )
        if wishes.quality is not None and not row.has_quality:
            raise BadRequestError(
                f"quality is for {_named(lambda row: row.has_quality)}; {format_} has none."
            )
        sized = exact is not None or wishes.width is not None or wishes.height is not None
        return JobRequest(
            model_name=model.name,
            scale=None if sized else wishes.scale or upscaler.default_scale,
            output_size=size,
            format=format_,
            tile_size=upscaler.tile_size if wishes.tile_size is None else wishes.tile_size,
            tta=wishes.tta,
            quality=wishes.quality,
            lossless=wishes.lossless,
            background=wishes.background,
            keep_metadata=wishes.keep_metadata,
        )

    async def _check_room(self, request: JobRequest, model: Model, probe: Probe) -> None:
        """Refuse a job for which disk or memory is too small."""
        files = model.files_for(request.factor(probe.size))
        native = files.native_scale
        with contextlib.suppress(OSError):  # the job will report what is wrong with its files
            await asyncio.to_thread(check_memory, self._config, self._choice, files)
        memory = memory_bytes(probe.size, request.output_size, request.format)
        most = self._config.limits.imaging_memory_mb << 20
        if memory > most:
            raise NoMemoryError(
                f"The job needs about {memory >> 20} MiB of memory and may take {most >> 20} MiB "
                "(limits.imaging_memory_mb); use a smaller scale or picture."
            )
        most = await asyncio.to_thread(available)
        if memory > most:
            raise NoMemoryError(
                f"The job needs about {memory >> 20} MiB of memory and {most >> 20} MiB are "
                "there for it; use a smaller scale or picture."
            )
        need = disk_bytes(probe.size, request.output_size, native)
        free = await self._workspace.free_bytes(need + DISK_RESERVE)
        if need + DISK_RESERVE > free:
            raise NoSpaceError(
                f"The job needs about {need >> 20} MiB on the server's disk and "
                f"{max(0, free - DISK_RESERVE) >> 20} MiB are free; use a smaller scale, or make "
                "room in storage.data_dir."
            )
