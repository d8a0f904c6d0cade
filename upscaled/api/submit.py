"""Submissions: receive a picture, answer with its job's addresses or its outcome."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.context import CONTEXT, LINK_BASE, SERVICE, SUBMISSION_RATE
from upscaled.api.download import deliver
from upscaled.api.form_reader import ELSEWHERE
from upscaled.api.jobs import job_id_of
from upscaled.api.original import Original
from upscaled.api.query import query_of
from upscaled.api.responses import json_response
from upscaled.api.status_json import quicker_json
from upscaled.api.waiting import (
    ANSWER_SECONDS,
    NO_WAIT,
    Wait,
    is_connected,
    parse_wait,
    preferred_wait,
    wait_for_end,
)
from upscaled.errors import BadRequestError, ResultGoneError, UpscaledError, WrongStateError
from upscaled.jobs.description import Links, described
from upscaled.jobs.job import TERMINAL, Job, JobState
from upscaled.service.idempotency import KeyClaim, parse_key
from upscaled.service.job_options import parse_fields
from upscaled.submission_fields import CALLBACK_FIELDS, FIELDS

_ANSWER_FIELDS = ("wait", "on_timeout", "cancel_on_timeout", "cancel_on_disconnect")
_JOB_FIELDS = (*FIELDS, *CALLBACK_FIELDS)
FIELD_NAMES_OF_FILE = (*_JOB_FIELDS, *_ANSWER_FIELDS)
"""Fields that a ``PUT`` takes in the query. Its body is the picture."""
FIELD_NAMES = (*FIELD_NAMES_OF_FILE, *ELSEWHERE)
"""Fields that a ``POST`` takes besides the picture, in the form or in the query."""
_READER_SECONDS = 25
"""How long ``on_timeout=original`` waits where no time is given: picture readers such as Suwayomi
give up after 30 seconds."""
_RESULT = "Upscaled-Result"
_REPLAYED = "Idempotent-Replayed"
_FETCHED_BEFORE = (
    "The result of the first request with this Idempotency-Key is gone; submit the picture again "
    "with another key."
)


@dataclass(frozen=True)
class _AnswerOptions:
    """How a submission is to be answered."""

    wait: Wait
    picture: bool
    """By the result itself, if it is there in time."""
    original: bool
    """By the caller's own picture, if it is not."""
    cancel_on_timeout: bool
    cancel_on_disconnect: bool


def _answer_options(request: web.Request, fields: Mapping[str, str]) -> _AnswerOptions:
    """Return how the caller wants to be answered.

    Raises:
        BadRequestError: a field is wrong.
    """
    on_timeout = fields.get("on_timeout")
    if on_timeout not in {None, "original"}:
        raise BadRequestError(f"on_timeout is {on_timeout[:64]!r}; it must be original.")
    original = on_timeout is not None
    wait = parse_wait(fields["wait"]) if "wait" in fields else preferred_wait(request)
    on_timeout_cancel = _flag(fields, "cancel_on_timeout")
    on_disconnect_cancel = _flag(fields, "cancel_on_disconnect")
    if wait is None:
        wait = Wait(_READER_SECONDS) if original else NO_WAIT
    # Else the answer would be that of an accepted job, and the job cancelled.
    if (on_timeout_cancel or on_disconnect_cancel) and not original and not wait.seconds:
        raise BadRequestError(
            "cancel_on_timeout and cancel_on_disconnect need wait, such as wait=30."
        )
    wants_picture = original or _accepts_picture(request)
    return _AnswerOptions(wait, wants_picture, original, on_timeout_cancel, on_disconnect_cancel)


def _flag(fields: Mapping[str, str], name: str) -> bool:
    text = fields.get(name, "false").strip().lower()
    if text not in {"true", "1", "false", "0"}:
        raise BadRequestError(f"{name} is {text[:64]!r}; it must be true or false.")
    return text in {"true", "1"}


def _accepts_picture(request: web.Request) -> bool:
    """Tell whether ``Accept`` names pictures; ``*/*``, which everybody sends, does not."""
    for value in request.headers.getall("Accept", ()):
        for item in value.split(","):
            media_type, *parameters = (part.strip().lower() for part in item.split(";"))
            refused = any(part.replace(" ", "") in {"q=0", "q=0.0"} for part in parameters)
            if media_type.startswith("image/") and not refused:
                return True
    return False


async def submit(request: web.Request) -> web.StreamResponse:
    """``POST /upscale``: accept a picture; 202 with the job's id.

    With ``wait`` the answer is the completed job or the result itself, if that is there in time.
    """
    return await _submit(request, FIELD_NAMES)


async def submit_file(request: web.Request) -> web.StreamResponse:
    """``PUT /upscale/{filename}``: the same with the picture as the body."""
    return await _submit(request, FIELD_NAMES_OF_FILE)


async def retry(request: web.Request) -> web.StreamResponse:
    """``POST /jobs/{job_id}/retry``: a new job with the picture and the fields of an ended one."""
    service, client = request.app[SERVICE], client_of(request)
    earlier = await service.jobs.get(job_id_of(request), client.owner)
    request[CONTEXT].rate_headers = request.app[SUBMISSION_RATE].check(client.key)
    base = request.app[LINK_BASE].of(request)
    job = await service.submissions.again(earlier, client, links_base=base)
    links = request.app[LINK_BASE].links(request, job.id)
    return json_response(_accepted(links), status=202, headers={"Location": links.status})


async def _submit(request: web.Request, field_names: Iterable[str]) -> web.StreamResponse:
    client = client_of(request)
    submissions = request.app[SERVICE].submissions
    key = parse_key(request.headers.getall("Idempotency-Key", ()))
    async with AsyncExitStack() as closing:
        async with (
            submissions.keys.claim(client.owner, key) as claim,
            upload.received(
                request,
                field_names,
                queues=claim is None or claim.earlier is None,
                read_anyway=query_of(request).get("on_timeout") == "original",
            ) as form,
        ):
            options = _answer_options(request, form.fields)
            headers = dict(options.wait.headers)
            original = None
            if options.original:
                # Open from now on: the job deletes the file when it ends.
                original = await Original.open(form.path)
                closing.push_async_callback(original.close)
            fields = {name: form.fields[name] for name in form.fields if name in _JOB_FIELDS}
            job = None
            try:
                job = await _job_of(request, form, fields, claim)
            except UpscaledError as error:
                # A wrong field is wrong for every picture, so the caller must see its error.
                if original is None or isinstance(error, BadRequestError):
                    raise
            if claim is not None and claim.earlier is not None:
                headers[_REPLAYED] = "true"
        if job is not None:
            return await _answer(request, job, options, original, headers)
        assert original is not None  # noqa: S101 - else the error was raised
        return await original.send(request, _original_headers("refused", headers))


async def _job_of(
    request: web.Request,
    form: upload.ReceivedForm,
    fields: Mapping[str, str],
    claim: KeyClaim | None,
) -> Job:
    """Return the job of a submission: a new one, or that of an earlier one with the same key."""
    submissions = request.app[SERVICE].submissions
    if form.refusal is not None:
        parse_fields(fields)
        raise form.refusal
    if claim is not None and claim.earlier is not None:
        return await submissions.repeated(claim, claim.earlier, fields, form.identity)
    return await submissions.submit(
        fields,
        form.path,
        form.filename or "",
        client_of(request),
        sha256=form.sha256,
        identity=form.identity,
        claim=claim,
        links_base=request.app[LINK_BASE].of(request),
    )


async def _answer(
    request: web.Request,
    job: Job,
    options: _AnswerOptions,
    original: Original | None,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    job = await wait_for_end(request, job, options.wait)
    gone = not is_connected(request)
    timed_out = job.state not in TERMINAL
    if timed_out and (options.cancel_on_disconnect if gone else options.cancel_on_timeout):
        with contextlib.suppress(WrongStateError):  # it has ended meanwhile
            await request.app[SERVICE].jobs.cancel(job.id, client_of(request).owner)
        job = await request.app[SERVICE].jobs.get(job.id, client_of(request).owner)
    if gone:
        raise ConnectionResetError("the caller went away while it waited")
    links = request.app[LINK_BASE].links(request, job.id)
    if job.state is JobState.COMPLETED and options.picture and options.wait.seconds:
        found = {_RESULT: "upscaled", "Content-Location": links.download, **headers}
        try:
            return await deliver(request, job.id, headers=found, as_picture=True)
        except ResultGoneError as error:
            if original is None and _REPLAYED in headers:
                raise ResultGoneError(_FETCHED_BEFORE, code=error.code) from None
            if original is None:
                raise
    if original is not None:
        reason = "timeout" if timed_out else job.state.value
        return await original.send(
            request, _original_headers(reason, {"Location": links.status, **headers})
        )
    if job.state not in TERMINAL or not options.wait.seconds:
        quicker = await request.app[SERVICE].jobs.quicker(job)
        return json_response(
            {**_accepted(links), **quicker_json(quicker)},
            status=202,
            headers={"Location": links.status, **headers},
        )
    return _ended(job, links, headers)


def _original_headers(reason: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {_RESULT: f"original; reason={reason}", **headers}


def _accepted(links: Links) -> dict[str, object]:
    return {
        "success": True,
        "job_id": links.job_id,
        "status_url": links.status,
        # Some clients ask for the result at once, and only once.
        "download_url": f"{links.download}?wait={ANSWER_SECONDS}",
        "cancel_url": links.cancel,
        "events_url": links.events,
    }


def _ended(job: Job, links: Links, headers: Mapping[str, str]) -> web.Response:
    """Return the answer about a job that has ended: its status, with an error where it failed."""
    told = described(job, links.base)
    if job.state is JobState.COMPLETED:
        return json_response({**_accepted(links), **told}, headers=headers)
    if job.state is JobState.CANCELLED:
        status, code, sentence = 409, "job_cancelled", "The job was cancelled."
    else:
        status = 500 if job.attempts or job.crashes or job.server_fault else 422
        code, sentence = "job_failed", job.error or "The job failed."
    content = {"success": False, "error": sentence, "code": code, "status_url": links.status}
    return json_response({**content, **told}, status=status, headers=headers)
