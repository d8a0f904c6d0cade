"""Which messages may be sent now, so that no receiver holds up the messages to another."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

_MOST = 64
"""Messages being sent at the same time."""
_OF_OWNER = 16
"""Of these, to the receivers of one owner."""
_DOUBTFUL = 8
"""Of an owner's, to receivers that did not answer the last time."""
_OF_RECEIVER = 4
"""Of an owner's, to one receiver. One that did not answer gets one message at a time."""
_LONGEST_REST = 60.0
"""Seconds without a message for a receiver that does not answer."""


@dataclass(eq=False)
class Line:
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
    waiting: deque[Line] = field(default_factory=deque)
    lines: int = 0
    sending: int = 0
    failures: int = 0
    """How often in a row it did not answer."""
    rests_until: float = 0.0


class Receivers:
    """The receivers of all lines; each owner has its own."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], _Receiver] = {}
        self._turns: dict[tuple[str, str], _Receiver] = {}
        """Those with waiting lines; the first had the longest pause."""
        self._sending: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()

    def add(self, line: Line) -> None:
        """Enter a new line."""
        receiver = self._all.setdefault((line.owner, line.receiver), _Receiver(line.owner))
        receiver.lines += 1

    def remove(self, line: Line) -> None:
        """Forget a line that has nothing more to send."""
        key = (line.owner, line.receiver)
        self._all[key].lines -= 1
        if not self._all[key].lines:
            del self._all[key]

    def wait(self, line: Line) -> None:
        """Let a line wait until its next message may be sent."""
        key = (line.owner, line.receiver)
        self._all[key].waiting.append(line)
        self._turns[key] = self._all[key]

    def ready(self, now: float) -> Iterator[Line]:
        """Yield the lines that may send now, a receiver at a time; they count as sending."""
        progress = True
        while progress:
            progress = False
            for key, receiver in list(self._turns.items()):
                if not self._may_send(receiver, now):
                    continue
                progress = True
                line = receiver.waiting.popleft()
                del self._turns[key]
                if receiver.waiting:
                    self._turns[key] = receiver  # behind the others
                receiver.sending += 1
                self._sending[receiver.owner] += 1
                line.doubtful = receiver.failures > 0
                self._doubtful[receiver.owner] += line.doubtful
                yield line

    def _may_send(self, receiver: _Receiver, now: float) -> bool:
        if self._sending.total() >= _MOST or self._sending[receiver.owner] >= _OF_OWNER:
            return False
        if not receiver.failures:
            return receiver.sending < _OF_RECEIVER
        doubtful = self._doubtful[receiver.owner]
        return not receiver.sending and now >= receiver.rests_until and doubtful < _DOUBTFUL

    def done(self, line: Line, dead: bool | None, now: float) -> None:
        """Note the end of an attempt.

        Args:
            line: whose message was sent.
            dead: whether the receiver did not answer; None: it was not asked.
            now: as for `ready`.
        """
        receiver = self._all[line.owner, line.receiver]
        receiver.sending -= 1
        self._sending[line.owner] -= 1
        if line.doubtful:
            self._doubtful[line.owner] -= 1
        if dead:
            receiver.failures += 1
            rest = min(_LONGEST_REST, 2.0 ** min(receiver.failures - 1, 10))
            receiver.rests_until = now + rest * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        elif dead is not None:
            receiver.failures = 0
        self._sending += Counter()  # removes the zeros
        self._doubtful += Counter()

    def wakes(self, now: float) -> Iterator[float]:
        """Yield the moments at which receivers with waiting lines have rested."""
        for receiver in self._turns.values():
            if receiver.failures and receiver.rests_until > now:
                yield receiver.rests_until
