"""The files that a worker needs for a job: its upload, from the blobs."""

from __future__ import annotations

from upscaled.blobs.blobs import BlobMissingError, Blobs, fetch
from upscaled.cluster import keys
from upscaled.errors import StoreUnavailableError
from upscaled.jobs.job import Job
from upscaled.jobs.workspace import Workspace


async def bring_upload(blobs: Blobs, workspace: Workspace, job: Job) -> str | None:
    """Write a job's upload into its new folder; return the reason if that can never succeed.

    Raises:
        StoreUnavailableError: the blobs don't answer, or with other bytes.
        NoSpaceError: the disk is full.
        OSError: it can't be written.
    """
    part = workspace.new_upload()
    try:
        found = await fetch(blobs, keys.upload(job.id), part)
    except BlobMissingError:
        await workspace.discard(part)
        return "The upload of this job is no longer among the files of the cluster."
    except BaseException:
        await workspace.discard(part)
        raise
    if job.input_sha256 and found != job.input_sha256:
        await workspace.discard(part)
        raise StoreUnavailableError("The upload came back with other bytes.")
    await workspace.remove(job.id)
    await workspace.adopt(part, job.id)
    return None
