"""Pictures in and out: probe, prepare, finish, each in a confined process of its own."""

from upscaled.imaging.imaging import Imaging
from upscaled.imaging.records import (
    CONFIRMABLE_LIMIT,
    NOTHING_WRITTEN,
    PLAUSIBLE_LIMIT,
    Band,
    Finished,
    FinishOptions,
    Piece,
    Prepared,
    Probe,
    UnlikeError,
    Written,
)

__all__ = [
    "CONFIRMABLE_LIMIT",
    "NOTHING_WRITTEN",
    "PLAUSIBLE_LIMIT",
    "Band",
    "FinishOptions",
    "Finished",
    "Imaging",
    "Piece",
    "Prepared",
    "Probe",
    "UnlikeError",
    "Written",
]
