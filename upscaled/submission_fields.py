"""The table of a submission's fields: names, allowed values, which of them are yes or no.

Admission, the endpoints' lists of allowed fields and the command line's options come from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from upscaled.formats import RESULT_NAMES, alternatives


@dataclass(frozen=True)
class Field:
    """One row."""

    name: str
    allowed: str
    """Its values, for people."""
    flag: bool = False
    """The values are ``true`` and ``false``."""
    words: tuple[str, ...] = ()
    """All values, where they are few."""


TABLE = (
    Field("scale", "2, 3 or 4: how much larger the result is", words=("2", "3", "4")),
    Field("model_name", "name of an installed model"),
    Field(
        "format", f"{alternatives(RESULT_NAMES)}; the upload's own if left out", words=RESULT_NAMES
    ),
    Field("tile_size", "0 (automatic) or 32 to 4096: pixels per tile side"),
    Field("width", "instead of scale: the result's width in pixels"),
    Field("height", "instead of scale: the result's height in pixels"),
    Field("tta", "true: average the eight flips and rotations, eight times slower", flag=True),
    Field(
        "precision",
        "exact or fast: in 16 bits where those are quicker, a few levels from exact",
        words=("exact", "fast"),
    ),
    Field("quality", "1 to 100, for jpg and webp"),
    Field("lossless", "true: webp without loss", flag=True),
    Field("background", "colour under transparent parts in jpg, such as #ffffff"),
    Field("keep_metadata", "false: leave colour profile and EXIF out of the result", flag=True),
    Field("client_ref", "a label of your own, up to 200 characters, to find the job again"),
)
"""Every field except ``image``, the picture itself."""

FIELDS: Mapping[str, str] = {field.name: field.allowed for field in TABLE}
"""The allowed values, by name."""

CALLBACK_FIELDS: Mapping[str, str] = {
    "callback_url": "address that is told of the job's events",
    "callback_events": "which events, separated by commas (docs/webhooks.md)",
}
"""Fields of a submission that name a receiver; an estimate does not take them."""

SOURCE_FIELDS: Mapping[str, str] = {
    "input_width": "the picture's width in pixels",
    "input_height": "the picture's height in pixels",
}
"""Fields that an estimate accepts instead of ``image``."""
