"""Jobs that move between one machine and a cluster: how they change, and their counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upscaled.jobs.job import Job, JobState

_ARCHIVES_NOTE = "archives stay behind, with their results: a cluster takes none"


@dataclass
class Moved:
    """What was moved, for whoever asked for it."""

    waiting: int = 0
    with_result: int = 0
    ended: int = 0
    """Those without a result."""
    already: int = 0
    """Moved by an earlier run."""
    lost_uploads: int = 0
    lost_results: int = 0
    archives: int = 0
    """Ended archives, which are not moved."""

    def count(self, job: Job) -> None:
        """Count a job as it is recorded now."""
        if job.state in {JobState.QUEUED, JobState.PROCESSING}:
            self.waiting += 1
        elif job.state is JobState.COMPLETED and job.result_gone is None:
            self.with_result += 1
        else:
            self.ended += 1

    def lines(self) -> list[str]:
        """Return sentences that say so."""
        total = self.waiting + self.with_result + self.ended
        told = [
            f"{total} jobs moved: {self.waiting} waiting, {self.with_result} with a result, "
            f"{self.ended} others."
        ]
        if self.already:
            told.append(f"{self.already} jobs were moved before.")
        if self.lost_uploads:
            told.append(f"{self.lost_uploads} waiting jobs have no upload any more; they failed.")
        if self.lost_results:
            told.append(f"{self.lost_results} results were missing or damaged; their jobs say so.")
        if self.archives:
            told.append(f"{self.archives} {_ARCHIVES_NOTE}.")
        return told


def waiting_again(job: Job) -> Job:
    """Return an unfinished job as it waits after its move; its work starts from the beginning."""
    return replace(job, state=JobState.QUEUED, progress=0, device=None, started=None)


def without_upload(job: Job, now: float) -> Job:
    """Return an unfinished job whose upload is damaged, as failed."""
    return job.to(
        JobState.FAILED,
        finished=now,
        client="",
        server_fault=True,
        error="The upload of this job was missing or damaged when the server's jobs were moved; "
        "submit the picture again.",
    )
