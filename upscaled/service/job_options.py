"""The options of a job: the fields of a submission as typed values, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from upscaled.errors import BadRequestError
from upscaled.formats import (
    RESULT_NAMES,
    alternatives,
    by_alias,
    result_format_for,
)
from upscaled.jobs.job import EXACT, FAST, Job
from upscaled.pictures import Size
from upscaled.submission_fields import CALLBACK_FIELDS, FIELDS
from upscaled.webhooks import callbacks

SCALES = (2, 3, 4)
LABEL_CHARACTERS = 200
"""The longest label of a caller's own."""
LARGEST_FACTOR = 16.0
"""Largest factor by which a result may exceed its source along a side."""


@dataclass(frozen=True)
class JobOptions:
    """The fields as typed values; None if the caller omitted one."""

    scale: int | None
    model_name: str | None
    format: str | None
    tile_size: int | None
    width: int | None
    height: int | None
    tta: bool
    precision: str
    quality: int | None
    lossless: bool
    background: tuple[int, int, int]
    keep_metadata: bool
    client_ref: str | None
    callback_url: str | None
    callback_events: str | None


def parse_fields(fields: Mapping[str, str]) -> JobOptions:
    """Convert form fields to typed values.

    Raises:
        BadRequestError: a field is unknown, wrong or contradicts another one.
    """
    known = (*FIELDS, *CALLBACK_FIELDS)
    for name in fields:
        if name not in known:
            raise BadRequestError(
                f"There is no field {name[:64]!r}; the fields are image, {', '.join(known)}."
            )
    options = JobOptions(
        scale=whole_number(fields, "scale", lambda v: v in SCALES, "2, 3 or 4"),
        model_name=fields.get("model_name"),
        format=_format(fields.get("format")),
        tile_size=whole_number(
            fields,
            "tile_size",
            lambda v: v == 0 or 32 <= v <= 4096,
            "0 (automatic) or between 32 and 4096",
        ),
        width=whole_number(
            fields, "width", lambda v: 1 <= v <= 1_000_000, "between 1 and 1000000 pixels"
        ),
        height=whole_number(
            fields, "height", lambda v: 1 <= v <= 1_000_000, "between 1 and 1000000 pixels"
        ),
        tta=_boolean(fields, "tta", default=False),
        precision=precision_of(fields.get("precision")),
        quality=whole_number(fields, "quality", lambda v: 1 <= v <= 100, "between 1 and 100"),
        lossless=_boolean(fields, "lossless", default=False),
        background=_colour(fields.get("background")),
        keep_metadata=_boolean(fields, "keep_metadata", default=True),
        client_ref=_label(fields.get("client_ref")),
        callback_url=fields.get("callback_url"),
        callback_events=fields.get("callback_events"),
    )
    callbacks.parse_events(options.callback_events)
    if options.scale is not None and (options.width is not None or options.height is not None):
        raise BadRequestError("Give either scale or width/height, not both.")
    if options.quality is not None and options.lossless:
        raise BadRequestError("Give either quality or lossless=true, not both.")
    return options


def fields_of(job: Job) -> dict[str, str]:
    """Return the fields of a submission that would create ``job`` again, without its size."""
    request = job.request
    red, green, blue = request.background
    fields = {
        "model_name": request.model_name,
        "format": request.format,
        "tile_size": str(request.tile_size),
        "tta": _word(request.tta),
        "precision": request.precision,
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


def precision_of(value: str | None) -> str:
    """Return the precision that a field asks for.

    Raises:
        BadRequestError: it is none.
    """
    if value is None:
        return EXACT
    if value not in {EXACT, FAST}:
        raise BadRequestError(f"precision is {value[:64]!r}; it must be exact or fast.")
    return value


def _word(value: bool) -> str:
    return "true" if value else "false"


def _refusal(name: str, text: str, allowed: str) -> BadRequestError:
    return BadRequestError(f"The field {name} is {text[:64]!r}; it must be {allowed}.")


def whole_number(
    fields: Mapping[str, str], name: str, allows: Callable[[int], bool], allowed: str
) -> int | None:
    """Return a field as a whole number; None if it was not sent.

    Raises:
        BadRequestError: ``allows`` rejects it; ``allowed`` describes what is accepted.
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


def output_size(source: Size, options: JobOptions, default_scale: int) -> Size:
    """Return the promised size of the result.

    Width and height are limits into which the result is fitted; its proportions are kept.

    Raises:
        BadRequestError: the requested size is smaller than the picture, or far too large.
    """
    if options.width is None and options.height is None:
        return source.times(options.scale or default_scale)
    factor = min(
        options.width / source.width if options.width is not None else float("inf"),
        options.height / source.height if options.height is not None else float("inf"),
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
