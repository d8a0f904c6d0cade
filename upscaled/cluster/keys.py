"""The keys of a cluster's blobs: uploads by job, results by job and lease, bands by digest."""

from __future__ import annotations

import re

from upscaled.jobs.job import Job, is_job_id

UPLOADS = "uploads"
RESULTS = "results"
BANDS = "bands"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"checkpoint-([1-9][0-9]{0,17})")
IDENTITY = "cluster"
"""Holds the identity that the database has too."""


def upload(job_id: str) -> str:
    """Return the key of a job's upload.

    Raises:
        ValueError: ``job_id`` is not a job id.
    """
    return f"{UPLOADS}/{_checked(job_id)}"


def result(job: Job, lease_number: int) -> str:
    """Return the key of the result that is made under a lease."""
    return f"{RESULTS}/{job.id}/{lease_number}.{job.request.format}"


def bands(job_id: str) -> str:
    """Return what the keys of a job's bands begin with, before a slash.

    Raises:
        ValueError: ``job_id`` is not a job id.
    """
    return f"{BANDS}/{_checked(job_id)}"


def band(job_id: str, sha256: str) -> str:
    """Return the key of bytes that belong to a job's bands.

    Raises:
        ValueError: ``job_id`` is not a job id, or ``sha256`` no digest.
    """
    if not _DIGEST.fullmatch(sha256):
        raise ValueError("not a digest")
    return f"{bands(job_id)}/{sha256}"


def checkpoint(job_id: str, lease_number: int) -> str:
    """Return the key of the record of what is done of a job under a lease."""
    return f"{bands(job_id)}/checkpoint-{lease_number}"


def helped(job_id: str, lease_number: int) -> str:
    """Return what the keys of bands that other workers made under a lease begin with.

    Raises:
        ValueError: ``job_id`` is not a job id.
    """
    return f"{bands(job_id)}/helped-{lease_number}"


def helped_band(job_id: str, lease_number: int, worker: int, top: int, sha256: str) -> str:
    """Return the key of a band that another worker made under a lease.

    Raises:
        ValueError: ``job_id`` is not a job id, or ``sha256`` no digest.
    """
    if not _DIGEST.fullmatch(sha256):
        raise ValueError("not a digest")
    return f"{helped(job_id, lease_number)}/{worker}-{top}-{sha256}"


def lease_of(key: str) -> int | None:
    """Return the number of the lease of a record; None: the key is not that of a record."""
    found = _CHECKPOINT.fullmatch(key.rpartition("/")[2])
    return int(found[1]) if found else None


def _checked(job_id: str) -> str:
    if not is_job_id(job_id):
        raise ValueError("not a job id")
    return job_id


def job_of(key: str) -> str | None:
    """Return the id of the job that a blob belongs to; None if it is no job's."""
    kind, _, rest = key.partition("/")
    job_id = rest.partition("/")[0]
    return job_id if kind in {UPLOADS, RESULTS, BANDS} and is_job_id(job_id) else None
