"""Reading and writing pictures: probe, prepare, finish, each in a confined process."""

from upscaled.imaging.imaging import Imaging
from upscaled.imaging.prepared import Prepared, Probe
from upscaled.imaging.result import (
    NOTHING_WRITTEN,
    PART,
    Band,
    Finished,
    FinishOptions,
    Piece,
    Written,
)
from upscaled.imaging.verify.thresholds import (
    CONFIRMABLE_LIMIT,
    PLAUSIBLE_LIMIT,
    UnlikeError,
)

__all__ = [
    "CONFIRMABLE_LIMIT",
    "NOTHING_WRITTEN",
    "PART",
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
