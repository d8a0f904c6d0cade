"""Jobs for tests."""

from __future__ import annotations

import time
from typing import Any

from upscaled.jobs.job import Job, JobRequest, new_job_id
from upscaled.jobs.webhook_messages import Message
from upscaled.pictures import Size


def make_job(**changes: Any) -> Job:
    """Return a queued job for a 4×3 picture at scale 2."""
    values: dict[str, Any] = {
        "id": new_job_id(),
        "request": JobRequest(
            model_name="realesr-animevideov3", scale=2, output_size=Size(8, 6), format="png"
        ),
        "input_name": "photo.png",
        "input_format": "png",
        "input_size": Size(4, 3),
        "created": time.time(),
    }
    return Job(**{**values, **changes})


def make_message(job: Job, event: str) -> Message:
    """Return a pending message about ``job``."""
    return Message(
        id=f"msg_{job.id}_{event}",
        job_id=job.id,
        owner=job.owner,
        event=event,
        url="https://photos.example/hook",
        body=event.encode() + b"\xff",
        created=1.0,
        due=2.0,
    )
