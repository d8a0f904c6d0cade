"""Answers that wait for a job's end, as long as the caller asks and proxies allow."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.connections import wait_while_connected
from upscaled.api.context import SERVICE
from upscaled.api.query import query_of
from upscaled.errors import BadRequestError
from upscaled.jobs.job import TERMINAL, Job

MOST_SECONDS = 60
"""The largest ``wait`` that is taken."""
ANSWER_SECONDS = 45
"""The longest wait in seconds, whatever was asked for: with the usual configurations HAProxy closes
an idle connection after 50 seconds, nginx after 60."""


@dataclass(frozen=True)
class Wait:
    """How long an answer may wait for a job's end."""

    seconds: int
    preferred: bool = False
    """Asked for by the header ``Prefer``, which is acknowledged."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that tell the caller about it."""
        return {"Preference-Applied": f"wait={self.seconds}"} if self.preferred else {}


NO_WAIT = Wait(0)


def parse_wait(text: str) -> Wait:
    """Return the wait that a field asks for.

    Raises:
        BadRequestError: it is not a whole number of seconds, or too large.
    """
    # int() refuses thousands of digits with a message of its own.
    number = re.fullmatch("[0-9]{1,12}", text)
    if number is None or int(text) > MOST_SECONDS:
        raise BadRequestError(
            f"wait is {text[:64]!r}; it must be one whole number of seconds between 0 and "
            f"{MOST_SECONDS}."
        )
    return Wait(min(int(text), ANSWER_SECONDS))


def preferred_wait(request: web.Request) -> Wait | None:
    """Return the wait that the header ``Prefer`` asks for (RFC 7240); None if it asks for none.

    The first one counts. An invalid value is ignored, as the RFC requires. Without a
    value (``Prefer: wait``) the answer waits as long as it may.
    """
    if "Prefer" not in request.headers:
        return None
    for preference in ",".join(request.headers.getall("Prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().strip('"') or str(ANSWER_SECONDS)
            if not re.fullmatch("[0-9]{1,12}", text):
                return None
            return Wait(min(int(text), ANSWER_SECONDS), preferred=True)
    return None


def wait_of(request: web.Request) -> Wait:
    """Return the wait that the query's ``wait`` or else ``Prefer`` asks for.

    Raises:
        BadRequestError: ``wait`` is not a whole number of seconds, or too large.
    """
    values = query_of(request).getall("wait", [])
    if values:
        return parse_wait(", ".join(values))
    return preferred_wait(request) or NO_WAIT


async def wait_for_end(request: web.Request, job: Job, wait: Wait) -> Job:
    """Return the job when it has ended, the time is over, or the server is stopping.

    Returns at once when the caller has gone, see `is_connected`.
    """
    if not wait.seconds or job.state in TERMINAL:
        return job
    service = request.app[SERVICE]
    ended = asyncio.create_task(service.jobs.wait(job.id), name=f"wait-{job.id}")
    await wait_while_connected(request, ended, wait.seconds)
    return await service.jobs.get(job.id, client_of(request).owner)


def is_connected(request: web.Request) -> bool:
    """Tell whether the caller is still there to be answered."""
    return request.transport is not None and not request.transport.is_closing()
