"""Pictures in and out: probe, prepare, finish, each in a confined process of its own."""

from upscaled.imaging.imaging import Imaging
from upscaled.imaging.records import (
    CONFIRMABLE_LIMIT,
    FORMATS,
    NOTHING_WRITTEN,
    PLAUSIBLE_LIMIT,
    RESULT_FORMATS,
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
    "CONFIRMABLE_LIMIT",
    "FORMATS",
    "NOTHING_WRITTEN",
    "PLAUSIBLE_LIMIT",
    "RESULT_FORMATS",
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
