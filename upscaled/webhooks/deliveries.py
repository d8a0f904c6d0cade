"""Delivers messages: those of one job in order, to many receivers at once, until accepted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from upscaled.config.settings import Config
from upscaled.jobs.archive_records import ArchiveRecord
from upscaled.jobs.job import Job
from upscaled.jobs.store import JobStore
from upscaled.jobs.webhook_messages import Message, MessageState
from upscaled.outgoing import signatures
from upscaled.outgoing.client import SAME_METHOD, OutgoingClient
from upscaled.outgoing.destination import origin_of
from upscaled.outgoing.errors import AddressRefusedError, OutgoingError
from upscaled.webhooks.receivers import MessageQueue, Receivers
from upscaled.webhooks.retry_schedule import MOST_RETRY_AFTER, RetrySchedule, retry_after

log = logging.getLogger(__name__)

_STORE_SECONDS = 5.0
"""Pause after the store could not be read or written."""
_READ_BYTES = 1024
"""Bytes of an answer that are read, so that a receiver can finish a short one."""
_GONE = 410


@dataclass(frozen=True)
class _Outcome:
    """What came of one attempt."""

    status: int | None = None
    problem: str | None = None
    """None: the receiver took it."""
    asked: float = 0.0
    """Seconds that the receiver asked to wait."""
    dead: bool = False
    """There was no answer, so other messages would get none either."""


class Deliveries:
    """Sends the messages in the store's outbox. Each is sent until it is taken or given up.

    What was sent is recorded after it was sent: if the server is killed in between, a message comes
    twice, with the same id.

    Args:
        store: has the outbox.
        client: makes the requests.
        keys: the keys that sign an owner's messages.
        retries: when to try again.
        seconds: for one attempt.
    """

    def __init__(
        self,
        store: JobStore,
        client: OutgoingClient,
        keys: Callable[[str], Sequence[bytes]],
        retries: RetrySchedule,
        seconds: float,
    ) -> None:
        self._store = store
        self._client = client
        self._keys = keys
        self._retries = retries
        self._seconds = seconds
        self._queues: dict[str, MessageQueue] = {}
        self._timers: list[tuple[float, int, MessageQueue]] = []
        self._numbers = itertools.count()
        self._receivers = Receivers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.attempts: Counter[str] = Counter()
        """Attempts so far, by the state that the message got."""

    def __len__(self) -> int:
        """Return the number of jobs with messages that are not delivered yet."""
        return len(self._queues)

    def notice(self, subject: Job | ArchiveRecord) -> None:
        """Record that messages about ``subject`` were added to the outbox."""
        if subject.callback is not None:
            self._note(subject.id, subject.owner, subject.callback.url, 0.0)

    def _note(self, job_id: str, owner: str, url: str, delay: float) -> None:
        if (queue := self._queues.get(job_id)) is not None:
            queue.more = True
            return
        queue = self._queues[job_id] = MessageQueue(job_id, owner, origin_of(url))
        self._receivers.add(queue)
        self._schedule(queue, delay)

    def _schedule(self, queue: MessageQueue, delay: float) -> None:
        # By a clock that never goes back; one that was set back delays by one pause at the most.
        moment = asyncio.get_running_loop().time() + min(max(0.0, delay), self._longest)
        heappush(self._timers, (moment, next(self._numbers), queue))
        self._wake.set()

    @property
    def _longest(self) -> float:
        return max(self._retries.longest, MOST_RETRY_AFTER)

    async def run(self) -> None:
        """Deliver until cancelled."""
        await self._load()
        try:
            while True:
                self._wake.clear()
                await self._start_what_is_due()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _start_what_is_due(self) -> None:
        """Start sending what may be sent now; wait until more may."""
        now = asyncio.get_running_loop().time()
        while self._timers and self._timers[0][0] <= now:
            self._receivers.wait(heappop(self._timers)[2])
        for queue in self._receivers.ready(now):
            task = asyncio.create_task(self._send(queue), name=f"webhook-{queue.job_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        moments = [moment for moment, _, _ in self._timers[:1]]
        moments += self._receivers.wakes(now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(moments, default=None)):
                await self._wake.wait()

    async def _load(self) -> None:
        """Load what an earlier run of the server left."""
        while True:
            try:
                pending = await self._store.pending_jobs()
            except Exception:
                log.exception("undelivered webhook messages can't be read; tried again soon")
                await asyncio.sleep(_STORE_SECONDS)
            else:
                break
        for job in pending:
            self._note(job.job_id, job.owner, job.url, job.due - time.time())

    async def _send(self, queue: MessageQueue) -> None:
        """Send the next message of a job, and decide when the one after it is due."""
        delay: float | None = _STORE_SECONDS
        dead: bool | None = None
        try:
            queue.more = False
            message = await self._store.next_message(queue.job_id)
            if message is None:
                delay = 0.0 if queue.more else None
            elif message.due > time.time() and message.attempts:
                delay = message.due - time.time()
            else:
                outcome = await self._attempt(message)
                dead = outcome.dead
                settled = self._settled(message, outcome)
                self.attempts[settled.state.value] += 1
                await self._store.settle(settled)
                _report(settled, queue.receiver)
                pending = settled.state is MessageState.PENDING
                delay = settled.due - time.time() if pending else 0.0
        except Exception:
            log.exception("webhook message can't be sent", extra={"job": queue.job_id})
        finally:
            self._receivers.done(queue, dead, asyncio.get_running_loop().time())
            if delay is None:
                del self._queues[queue.job_id]
                self._receivers.remove(queue)
                self._wake.set()
            else:
                self._schedule(queue, delay)

    async def _attempt(self, message: Message) -> _Outcome:
        """Send a message once; an answer's status decides, whatever its body is."""
        now = time.time()
        if message.attempts and self._retries.is_too_old(now - message.created):
            return _Outcome(message.status, "It is too old to be sent.")
        headers = {
            "Content-Type": "application/json",
            **signatures.headers(self._keys(message.owner), message.id, int(now), message.body),
        }
        status, asked = None, 0.0
        try:
            async with self._client.request(
                "POST", message.url,
                seconds=self._seconds, follow=SAME_METHOD, headers=headers, body=message.body,
            ) as response:  # fmt: skip
                status = response.status
                asked = retry_after(response.headers.get("Retry-After"))
                await response.content.read(_READ_BYTES)
        except OutgoingError as error:
            if status is None:
                return _Outcome(None, str(error), dead=not isinstance(error, AddressRefusedError))
        if 200 <= status < 300:
            return _Outcome(status)
        if 300 <= status < 400:
            return _Outcome(status, f"It answered {status}; only 307 and 308 are followed.")
        return _Outcome(status, f"It answered {status}.", asked)

    def _settled(self, message: Message, outcome: _Outcome) -> Message:
        now = time.time()
        attempts = message.attempts + 1
        message = replace(
            message, attempts=attempts, status=outcome.status, error=outcome.problem, finished=now
        )
        if outcome.problem is None:
            return replace(message, state=MessageState.DELIVERED)
        if outcome.status == _GONE:
            return replace(message, state=MessageState.GONE)
        pause = self._retries.pause(attempts, outcome.asked)
        if pause is None or self._retries.is_too_old(now - message.created):
            return replace(message, state=MessageState.GIVEN_UP)
        return replace(message, finished=None, due=now + pause)


def _report(message: Message, receiver: str) -> None:
    """Log what became of a message; its address may hold a secret, so only the host is told."""
    more = {
        "job": message.job_id,
        "event_name": message.event,
        "receiver": receiver,
        "attempts": message.attempts,
        **({"reason": message.error} if message.error else {}),
    }
    if message.state is MessageState.DELIVERED:
        log.info("webhook delivered", extra=more)
    elif message.state is MessageState.PENDING:
        log.info("webhook attempt failed", extra=more)
    elif message.state is MessageState.GONE:
        log.warning("webhook ended by its receiver", extra=more)
    else:
        log.error("webhook given up", extra=more)


def make_deliveries(config: Config, store: JobStore, client: OutgoingClient) -> Deliveries | None:
    """Return the deliveries that the settings ask for; None: webhooks are off."""
    if not config.features.webhooks:
        return None
    keys = {name: signatures.keys_of(text) for name, text in config.webhooks.secrets}
    unnamed = signatures.keys_of(config.webhooks.secret)
    return Deliveries(
        store,
        client,
        lambda owner: keys.get(owner, ()) if owner else unnamed,
        RetrySchedule(config.webhooks.retry_seconds),
        config.webhooks.timeout_seconds,
    )
