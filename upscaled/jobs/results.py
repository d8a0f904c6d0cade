"""The result of a completed job: its file and name, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upscaled.errors import ResultGoneError, WrongStateError
from upscaled.formats import result_format
from upscaled.jobs.job import Job, JobState, shortened

_STEM_BYTES = 200  # of a download's name, which may have 255 bytes altogether
_GONE = {
    "downloaded": (
        "already_downloaded",
        "The result was downloaded already and then deleted; submit the {} again.",
    ),
    "expired": (
        "expired",
        "The result was not fetched in time and has been deleted; submit the {} again.",
    ),
    "lost": (
        "expired",
        "The result is no longer on the server's disk; submit the {} again.",
    ),
}
"""Code and sentence, by the reason why a result is gone."""


@dataclass(frozen=True)
class ResultFile:
    """A finished picture, ready to be sent."""

    path: Path
    download_name: str
    media_type: str
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    key: str = ""
    """Of the blob that holds it, in a cluster."""


def gone(why: str, sent: str = "picture") -> ResultGoneError:
    """Return the error for a result that is ``downloaded``, ``expired`` or ``lost``.

    Args:
        why: one of these.
        sent: what was submitted.
    """
    code, sentence = _GONE[why]
    return ResultGoneError(sentence.format(sent), code=code)


def result_name(job: Job) -> str:
    """Return the name of the result in the job's folder."""
    return f"result.{job.request.format}"


def result_of(job: Job, folder: Path) -> ResultFile:
    """Return the result in ``folder`` for the caller of ``job``.

    Raises:
        WrongStateError: the job is not completed.
        ResultGoneError: its result was downloaded, expired or lost.
    """
    if job.state is not JobState.COMPLETED:
        hint = "" if job.finished else "; poll its status until it is completed"
        raise WrongStateError(f"There is no result: the job is {job.state.value}{hint}.")
    if job.result_gone is not None:
        raise gone(job.result_gone)
    scale = job.request.scale
    suffix = f"{scale}x" if scale else str(job.request.output_size.width)
    # Short enough that the name with scale and extension can be saved.
    stem = shortened(Path(job.input_name).stem, _STEM_BYTES) or "image"
    return ResultFile(
        folder / result_name(job),
        f"{stem}_{suffix}.{job.request.format}",
        result_format(job.request.format).media_type,
        job.receipt["output"]["sha256"],
        job.result_key,
    )
