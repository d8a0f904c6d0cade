"""The events that receivers can get, and the messages about them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from upscaled.jobs import archive_description
from upscaled.jobs.archive_records import ArchiveRecord
from upscaled.jobs.description import Links, described
from upscaled.jobs.job import TERMINAL, Callback, Job, JobState
from upscaled.jobs.webhook_messages import Message

STARTED = "started"
EXPIRED = "expired"
EVENTS = (STARTED, *(state.value for state in JobState if state in TERMINAL), EXPIRED)
"""Names of the events. Progress is not among them: `GET /events` sends it."""
USUAL_EVENTS = tuple(state.value for state in JobState if state in TERMINAL)
"""The events of a job whose caller chose none: its ends."""
_EXPIRY = frozenset({"expired", "lost"})
"""Reasons for which a result is deleted before anybody has downloaded it."""


def messages_of(job: Job) -> Sequence[Message]:
    """Return the messages that the job's state calls for, in the order of its events.

    They have the same ids each time, so that a state that is recorded twice is sent once. A start
    that could not be recorded before the end is sent with it.
    """
    if job.callback is None:
        return ()
    return [
        _message("job", event, job, job.callback, _data(job_then, job.callback.links_base), moment)
        for event, job_then, moment in _happened(job)
        if event in job.callback.events
    ]


def messages_of_archive(record: ArchiveRecord) -> Sequence[Message]:
    """Return the messages that an archive's state calls for: its end, or that its result expired.

    They have the same ids each time.
    """
    if record.callback is None or not record.ended:
        return ()
    event, moment = record.state.value, record.finished or time.time()
    if record.result_gone is not None:
        event, moment = EXPIRED, time.time()
        if record.result_gone not in _EXPIRY:
            return ()
    if event not in record.callback.events:
        return ()
    data = archive_description.described(record, record.callback.links_base)
    return [_message("archive", event, record, record.callback, data, moment)]


def _happened(job: Job) -> Iterator[tuple[str, Job, float]]:
    """Yield each event with the job at that moment and the time."""
    if job.result_gone is not None:
        if job.result_gone in _EXPIRY:
            yield EXPIRED, job, time.time()
        return
    if job.started is not None:
        running = replace(job, state=JobState.PROCESSING, progress=0, attempts=(), error=None)
        yield STARTED, running, job.started
    if job.state in TERMINAL:
        yield job.state.value, job, job.finished or time.time()


def _data(job: Job, base: str) -> dict[str, Any]:
    data = {**described(job, base), "status_url": Links(base, job.id).status}
    if job.result_gone is not None:
        data["result_gone"] = job.result_gone
        data.pop("download_url", None)
    return data


def _message(
    kind: str,
    event: str,
    subject: Job | ArchiveRecord,
    callback: Callback,
    data: Mapping[str, Any],
    moment: float,
) -> Message:
    when = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    content = {
        "type": f"{kind}.{event}",
        "timestamp": when.replace("+00:00", "Z"),
        "data": data,
    }
    # Escaped to ASCII, so that a half of a surrogate pair in a label does no harm.
    body = json.dumps(content, separators=(",", ":")).encode()
    now = time.time()
    return Message(
        id=f"msg_{subject.id}_{event}",
        job_id=subject.id,
        owner=subject.owner,
        event=event,
        url=callback.url,
        body=body,
        created=now,
        due=now,
    )
