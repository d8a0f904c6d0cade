"""Pictures in and out: probe, prepare, finish, each in a confined process of its own."""

from upscaled.imaging.client import Imaging
from upscaled.imaging.records import (
    FORMATS,
    RESULT_FORMATS,
    UNHEARD_OF,
    Finished,
    FinishOptions,
    Prepared,
    Probe,
    UnlikeError,
    largest_side,
)

__all__ = [
    "FORMATS",
    "RESULT_FORMATS",
    "UNHEARD_OF",
    "FinishOptions",
    "Finished",
    "Imaging",
    "Prepared",
    "Probe",
    "UnlikeError",
    "largest_side",
]
