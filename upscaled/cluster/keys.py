"""The keys of a cluster's blobs: uploads by job, results by job and lease."""

from __future__ import annotations

from upscaled.jobs.job import Job, is_job_id

UPLOADS = "uploads"
RESULTS = "results"
IDENTITY = "cluster"
"""Holds the identity that the database has too."""


def upload(job_id: str) -> str:
    """Return the key of a job's upload.

    Raises:
        ValueError: ``job_id`` is not a job id.
    """
    if not is_job_id(job_id):
        raise ValueError("not a job id")
    return f"{UPLOADS}/{job_id}"


def result(job: Job, lease_number: int) -> str:
    """Return the key of the result that is made under a lease."""
    return f"{RESULTS}/{job.id}/{lease_number}.{job.request.format}"


def job_of(key: str) -> str | None:
    """Return the id of the job that a blob belongs to; None if it is no job's."""
    kind, _, rest = key.partition("/")
    job_id = rest.partition("/")[0]
    return job_id if kind in {UPLOADS, RESULTS} and is_job_id(job_id) else None
