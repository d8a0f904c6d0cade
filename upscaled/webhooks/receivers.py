"""Which messages may be sent now, so that no receiver holds up the messages to another."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import SystemRandom

_random = SystemRandom()
_MOST = 64
"""Messages being sent at the same time."""
_OF_OWNER = 16
"""Of these, to the receivers of one owner."""
_DOUBTFUL = 8
"""Messages at a time of an owner to receivers that did not answer the last time."""
_OF_RECEIVER = 4
"""Messages at a time of an owner to one receiver; one that did not answer gets one at a time."""
_LONGEST_REST = 60.0
"""Seconds without a message for a receiver that does not answer."""


@dataclass(eq=False)
class MessageQueue:
    """The pending messages of one job. At most one of them is being sent."""

    job_id: str
    owner: str
    receiver: str
    """Scheme, host and port."""
    more: bool = False
    """Whether messages were added since the outbox was last read."""
    doubtful: bool = False
    """Whether its receiver had not answered when its present attempt began."""


@dataclass
class _Receiver:
    owner: str
    waiting: deque[MessageQueue] = field(default_factory=deque)
    queues: int = 0
    sending: int = 0
    failures: int = 0
    """How often in a row it did not answer."""
    rests_until: float = 0.0


class Receivers:
    """The receivers of all queues; each owner has its own."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], _Receiver] = {}
        self._turns: dict[tuple[str, str], _Receiver] = {}
        """Those with waiting queues; the first had the longest pause."""
        self._sending: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()

    def add(self, queue: MessageQueue) -> None:
        """Enter a new queue."""
        receiver = self._all.setdefault((queue.owner, queue.receiver), _Receiver(queue.owner))
        receiver.queues += 1

    def remove(self, queue: MessageQueue) -> None:
        """Forget a queue that has nothing more to send."""
        key = (queue.owner, queue.receiver)
        self._all[key].queues -= 1
        if not self._all[key].queues:
            del self._all[key]

    def wait(self, queue: MessageQueue) -> None:
        """Let a queue wait until its next message may be sent."""
        key = (queue.owner, queue.receiver)
        self._all[key].waiting.append(queue)
        self._turns[key] = self._all[key]

    def ready(self, now: float) -> Iterator[MessageQueue]:
        """Yield the queues that may send now, a receiver at a time; they count as sending."""
        progress = True
        while progress:
            progress = False
            for key, receiver in list(self._turns.items()):
                if not self._may_send(receiver, now):
                    continue
                progress = True
                queue = receiver.waiting.popleft()
                del self._turns[key]
                if receiver.waiting:
                    self._turns[key] = receiver  # behind the others
                receiver.sending += 1
                self._sending[receiver.owner] += 1
                queue.doubtful = receiver.failures > 0
                self._doubtful[receiver.owner] += queue.doubtful
                yield queue

    def _may_send(self, receiver: _Receiver, now: float) -> bool:
        if self._sending.total() >= _MOST or self._sending[receiver.owner] >= _OF_OWNER:
            return False
        if not receiver.failures:
            return receiver.sending < _OF_RECEIVER
        doubtful = self._doubtful[receiver.owner]
        return not receiver.sending and now >= receiver.rests_until and doubtful < _DOUBTFUL

    def done(self, queue: MessageQueue, dead: bool | None, now: float) -> None:
        """Record the end of an attempt.

        Args:
            queue: whose message was sent.
            dead: whether the receiver did not answer; None: it was not asked.
            now: as for `ready`.
        """
        receiver = self._all[queue.owner, queue.receiver]
        receiver.sending -= 1
        self._sending[queue.owner] -= 1
        if queue.doubtful:
            self._doubtful[queue.owner] -= 1
        if dead:
            receiver.failures += 1
            rest = min(_LONGEST_REST, 2.0 ** min(receiver.failures - 1, 10))
            receiver.rests_until = now + rest * _random.uniform(0.8, 1.2)
        elif dead is not None:
            receiver.failures = 0
        self._sending += Counter()  # removes the zeros
        self._doubtful += Counter()

    def wakes(self, now: float) -> Iterator[float]:
        """Yield the moments at which receivers with waiting queues have rested."""
        for receiver in self._turns.values():
            if receiver.failures and receiver.rests_until > now:
                yield receiver.rests_until
