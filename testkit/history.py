"""A history of what callers of a cluster were told, and the check that it is a possible one."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from testkit.receiver import Received

_ENDS = frozenset({"completed", "failed", "cancelled"})
_AGAIN_SECONDS = 0.2
_REQUEST_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What a server said of a job's state, between two moments."""

    job_id: str
    asked: float
    told: float
    server: str
    state: str
    """A state, or ``accepted``, ``cancel taken``, ``listed`` with a state after a blank, or
    ``result`` with the digest after a blank."""


@dataclass
class History:
    """All answers of all callers."""

    answers: list[Answer] = field(default_factory=list)
    refusals: Counter[int] = field(default_factory=Counter)
    """Answers that told to try again, by status; 0: there was no answer."""

    def add(self, job_id: str, asked: float, server: str, state: str) -> None:
        """Record an answer that has just come."""
        self.answers.append(Answer(job_id, asked, time.monotonic(), server, state))

    def problems(self, wanted: Mapping[str, str]) -> list[str]:
        """Return what can't be: a job without an end, with two, or with another picture's result.

        Args:
            wanted: the digest of the result that each accepted job must have, by job id.
        """
        by_job: dict[str, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            by_job[answer.job_id].append(answer)
        found = []
        for job_id, answers in by_job.items():
            ends = {answer.state for answer in answers if answer.state in _ENDS}
            if len(ends) != 1:
                found.append(f"{job_id} has {len(ends)} ends: {sorted(ends)}")
            if "failed" in ends:
                found.append(f"{job_id} failed")
            results = {a.state.split()[1] for a in answers if a.state.startswith("result ")}
            if "completed" in ends and results != {wanted[job_id]}:
                found.append(f"{job_id} has the results {sorted(results)}")
            if "cancelled" in ends and results:
                found.append(f"{job_id} was cancelled and has a result")
            if any(a.state == "cancel taken" for a in answers) and ends != {"cancelled"}:
                found.append(f"{job_id} ended as {sorted(ends)} although its cancel was taken")
            listed = {a.state.split()[1] for a in answers if a.state.startswith("listed ")}
            if listed - ends:
                found.append(
                    f"{job_id} was listed as {sorted(listed)} after its end {sorted(ends)}"
                )
            # Whoever asks after an end was told must be told that end.
            first = min((a.told for a in answers if a.state in _ENDS), default=float("inf"))
            late = [a for a in answers if a.asked > first and a.state in {"queued", "processing"}]
            found += [f"{job_id} was {a.state} on {a.server} after its end" for a in late]
        return found

    def ends(self) -> dict[str, str]:
        """Return the last end that was told of each job."""
        return {a.job_id: a.state for a in self.answers if a.state in _ENDS}

    def due_events(self) -> set[tuple[str, str]]:
        """Return the webhook events that must be delivered, by job id: ends, and starts before."""
        ends = self.ends().items()
        started = {(job_id, "job.started") for job_id, end in ends if end == "completed"}
        return started | {(job_id, f"job.{end}") for job_id, end in ends}

    def message_problems(
        self, requests: Sequence[Received], taken: Sequence[Received]
    ) -> list[str]:
        """Return what can't be of webhook messages: lost, under two ids, or of what was not so.

        Args:
            requests: all that came, in their order.
            taken: those that were answered with success.
        """
        due, found = self.due_events(), []
        ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        bodies: dict[str, set[bytes]] = defaultdict(set)
        for request in requests:
            ids[event_of(request)].add(request.id)
            bodies[request.id].add(request.body)
        first: dict[tuple[str, str], int] = {}
        for number, request in enumerate(taken):
            first.setdefault(event_of(request), number)
        found += [f"{job_id}: {event} was not delivered" for job_id, event in due - first.keys()]
        found += [f"{key} has the ids {sorted(some)}" for key, some in ids.items() if len(some) > 1]
        found += [
            f"{one} has {len(some)} contents" for one, some in bodies.items() if len(some) > 1
        ]
        ends = self.ends()
        for job_id, event in ids:
            if (job_id, event) not in due and (job_id not in ends or event != "job.started"):
                found.append(f"{job_id}: {event} was sent, and it ended as {ends.get(job_id)}")
        for job_id, end in ends.items():
            start, last = first.get((job_id, "job.started")), first.get((job_id, f"job.{end}"))
            if start is not None and last is not None and start > last:
                found.append(f"{job_id}: its start was told after its end")
        return found


def event_of(request: Received) -> tuple[str, str]:
    """Return job id and event of a webhook message."""
    told = request.json
    return str(told["data"]["job_id"]), str(told["type"])


class Caller:
    """Submits pictures to any of several servers and follows them to their ends.

    Args:
        servers: base addresses of the API.
        history: where the answers go.
        seed: which server is asked when.
    """

    def __init__(self, servers: Sequence[str], history: History, seed: int) -> None:
        self._servers = servers
        self._history = history
        self._random = random.Random(seed)

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, **options: object
    ) -> tuple[str, float, int, bytes, dict[str, object]]:
        """Ask one server after the other until one answers for good."""
        while True:
            server = self._random.choice(self._servers)
            asked = time.monotonic()
            try:
                made = {name: value() if callable(value) else value
                        for name, value in options.items()}  # fmt: skip
                async with session.request(method, server + path, **made) as answer:  # type: ignore[arg-type]
                    body = await answer.read()
                    if answer.status == 500:
                        raise AssertionError(f"{method} {path}: {body!r}")
                    if answer.status not in {502, 503, 507}:
                        told = (await answer.json()) if b"json" in (
                            answer.headers.get("Content-Type", "").encode()
                        ) else {}  # fmt: skip
                        return server, asked, answer.status, body, told
                    self._history.refusals[answer.status] += 1
            except (aiohttp.ClientError, TimeoutError):
                self._history.refusals[0] += 1
            await asyncio.sleep(_AGAIN_SECONDS)

    async def upscale(self, picture: bytes, fields: Mapping[str, str], *, cancel: bool) -> str:
        """Submit a picture, follow it to its end, fetch the result; return the job's id."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        own = str(uuid.uuid4())
        key = {"Idempotency-Key": own}

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData({**fields, "client_ref": own})
            data.add_field("image", picture, filename="picture.png")
            return data

        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                server, asked, status, body, told = await self._ask(
                    session, "POST", "/upscale", data=form, headers=key
                )
                if status in {200, 202}:
                    break
                if status != 409:  # the key is in use by a request whose answer was lost
                    raise AssertionError(f"{status} {body!r}")
            job_id = str(told["job_id"])
            self._history.add(job_id, asked, server, "accepted")
            if cancel:
                server, asked, status, _, _ = await self._ask(session, "POST", f"/cancel/{job_id}")
                if status == 200:
                    self._history.add(job_id, asked, server, "cancel taken")
            state = "queued"
            while state not in _ENDS:
                server, asked, _, body, told = await self._ask(session, "GET", f"/status/{job_id}")
                state = str(told.get("status", body))
                self._history.add(job_id, asked, server, state)
                await asyncio.sleep(0.05)  # a caller polls: its answers are what is checked
            if state == "completed":
                server, asked, status, body, _ = await self._ask(
                    session, "GET", f"/download/{job_id}?keep=true"
                )
                digest = hashlib.sha256(body).hexdigest() if status == 200 else f"status-{status}"
                self._history.add(job_id, asked, server, f"result {digest}")
            for server in self._servers:  # all of them tell the same, and so do their lists
                only = Caller([server], self._history, 0)
                _, asked, _, _, told = await only._ask(session, "GET", f"/status/{job_id}")
                self._history.add(job_id, asked, server, str(told.get("status")))
                _, asked, _, _, told = await only._ask(session, "GET", f"/jobs?client_ref={own}")
                listed = {str(one["job_id"]): one["status"] for one in _jobs_of(told)}
                self._history.add(job_id, asked, server, f"listed {listed.get(job_id)}")
        return job_id


def _jobs_of(told: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    """Return the jobs of a list that a server told."""
    jobs = told.get("jobs")
    assert isinstance(jobs, list), told
    return jobs
