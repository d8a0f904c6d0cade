"""Reading and writing pictures: probe, prepare, finish, each in a confined process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upscaled.imaging.prepared import Prepared, Probe
from upscaled.imaging.protocol import most_result_bytes
from upscaled.imaging.result import (
    NOTHING_WRITTEN,
    PART,
    Band,
    EncodedBody,
    Finished,
    FinishOptions,
    Piece,
    ResultProgress,
    StripPart,
)
from upscaled.imaging.row_map import BandRows
from upscaled.imaging.verify.thresholds import (
    CONFIRMABLE_LIMIT,
    PLAUSIBLE_LIMIT,
    UnlikeError,
)
from upscaled.imaging.view.box import Box
from upscaled.imaging.view.levels import TILE, levels_of, tile_count
from upscaled.imaging.view.tile_file import TileFileError, read_tile

if TYPE_CHECKING:
    from upscaled.imaging.imaging import Imaging

__all__ = [
    "CONFIRMABLE_LIMIT",
    "NOTHING_WRITTEN",
    "PART",
    "PLAUSIBLE_LIMIT",
    "TILE",
    "Band",
    "BandRows",
    "Box",
    "EncodedBody",
    "FinishOptions",
    "Finished",
    "Imaging",
    "Piece",
    "Prepared",
    "Probe",
    "ResultProgress",
    "StripPart",
    "TileFileError",
    "UnlikeError",
    "levels_of",
    "most_result_bytes",
    "read_tile",
    "tile_count",
]


def __getattr__(name: str) -> object:
    """Load `Imaging` when it is asked for: the worker processes of this package do without it."""
    if name != "Imaging":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from upscaled.imaging.imaging import Imaging  # noqa: PLC0415 - it needs asyncio

    return Imaging
