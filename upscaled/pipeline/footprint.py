"""What a job may use: time for its amount of work, and room on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.engines.engine import TTA_RUNS
from upscaled.formats import result_format
from upscaled.jobs.job import Job
from upscaled.pictures import Size

_START_SECONDS = 120.0
"""Allowance of every job, for loading a network and waiting for a busy disk."""

_NATIVE_BYTES = 1 << 30
"""Room on disk for the enlarged rows of a result that is written in strips."""
_NATIVE_ROWS = 1024
"""The room holds at least this many rows of the source, which are several rows of tiles."""

_PROCESS_BYTES = 300 << 20
"""Address space of an imaging process before it has seen a picture."""
_DECODE_BYTES = 12
"""For each pixel of the source: as decoded, oriented and converted, four bytes each."""
_ENCODE_BYTES = 5
"""Memory for each pixel of the result. Of one written in strips, `_STRIPS_BYTES` is the limit."""
_STRIPS_BYTES = 256 << 20
"""Memory for the strips that are encoded at a time; each exists in several forms."""
_ENCODE_BYTES_WHOLE = 10
"""For each pixel of the result, if the encoder copies the whole picture."""


@dataclass(frozen=True)
class TimeLimit:
    """How long a job may take.

    Args:
        most: limit in seconds for every job.
        per_megapixel: seconds for each million pixels of the source.
    """

    most: float
    per_megapixel: float

    def seconds(self, job: Job) -> float:
        """Return the seconds that ``job`` may take from the moment it gets a slot."""
        times = TTA_RUNS if job.request.tta else 1
        share = _START_SECONDS + times * self.per_megapixel * job.input_size.pixels / 1e6
        return min(self.most, share)

    def complaint(self, job: Job) -> str:
        """Return the error sentence for a job that took longer."""
        seconds = self.seconds(job)
        if seconds == self.most:
            why = "upscaler.job_timeout_seconds"
        else:
            why = "what a picture of its size gets by upscaler.job_seconds_per_megapixel"
        return f"The job took longer than {seconds:g} seconds ({why}) and was ended."


def disk_bytes(
    source: Size, output: Size, native_scale: int, format_name: str, *, frees_parts: bool = True
) -> int:
    """Return the bytes a job needs on disk: source, native output and result, all raw.

    Of the native output, as much as is there at a time.

    Args:
        source: size of the picture.
        output: size of the result.
        native_scale: the network's.
        format_name: of the result.
        frees_parts: the disk can free parts of a file, see `Workspace`.
    """
    native = source.times(native_scale)
    enlarged = (
        native_bytes(native, source.height, format_name) if frees_parts else 3 * native.pixels
    )
    return 3 * (source.pixels + output.pixels) + enlarged


def native_bytes(native: Size, source_height: int, format_name: str) -> int:
    """Return how many bytes of the native output are on disk at a time, if parts can be freed."""
    total = 3 * native.pixels
    if not result_format(format_name).banded:
        return total
    return min(total, max(_NATIVE_BYTES, _NATIVE_ROWS * (total // source_height)))


def memory_bytes(source: Size, output: Size, format_name: str) -> int:
    """Return the peak memory in bytes of the imaging process of a job."""
    if not result_format(format_name).banded:
        encoding = _ENCODE_BYTES_WHOLE * output.pixels
    else:
        encoding = min(_STRIPS_BYTES, _ENCODE_BYTES * output.pixels)
    return _PROCESS_BYTES + max(_DECODE_BYTES * source.pixels, encoding)
