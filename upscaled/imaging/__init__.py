"""Pictures in and out: probe, prepare, finish, each in a confined process of its own."""

from upscaled.imaging.imaging import Imaging
from upscaled.imaging.records import (
    FORMATS,
    HOPELESS,
    NOTHING_WRITTEN,
    RESULT_FORMATS,
    UNHEARD_OF,
    Band,
    Finished,
    FinishOptions,
    Piece,
    Prepared,
    Probe,
    UnlikeError,
    Written,
    largest_side,
)

__all__ = [
    "FORMATS",
    "HOPELESS",
    "NOTHING_WRITTEN",
    "RESULT_FORMATS",
    "UNHEARD_OF",
    "Band",
    "FinishOptions",
    "Finished",
    "Imaging",
    "Piece",
    "Prepared",
    "Probe",
    "UnlikeError",
    "Written",
    "largest_side",
]
