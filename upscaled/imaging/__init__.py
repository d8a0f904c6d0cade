"""Reading and writing pictures: probe, prepare, finish, each in a confined process."""

from upscaled.imaging.imaging import Imaging
from upscaled.imaging.prepared import Prepared, Probe
from upscaled.imaging.protocol import most_result_bytes
from upscaled.imaging.result import (
    NOTHING_WRITTEN,
    PART,
    Band,
    Finished,
    FinishOptions,
    Piece,
    ResultProgress,
)
from upscaled.imaging.verify.thresholds import (
    CONFIRMABLE_LIMIT,
    PLAUSIBLE_LIMIT,
    UnlikeError,
)
from upscaled.imaging.view.box import Box
from upscaled.imaging.view.levels import TILE, levels_of, tile_count
from upscaled.imaging.view.tile_file import TileFileError, read_tile

__all__ = [
    "CONFIRMABLE_LIMIT",
    "NOTHING_WRITTEN",
    "PART",
    "PLAUSIBLE_LIMIT",
    "TILE",
    "Band",
    "Box",
    "FinishOptions",
    "Finished",
    "Imaging",
    "Piece",
    "Prepared",
    "Probe",
    "ResultProgress",
    "TileFileError",
    "UnlikeError",
    "levels_of",
    "most_result_bytes",
    "read_tile",
    "tile_count",
]
