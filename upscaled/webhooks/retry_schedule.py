"""When a message is sent again, and when it is given up."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from random import SystemRandom

_random = SystemRandom()
_JITTER = 0.2
"""Pauses vary by this part of themselves, so that messages that failed together don't return
together."""
MOST_RETRY_AFTER = 86_400.0
"""The longest pause in seconds that a receiver may ask for."""


class RetrySchedule:
    """The pauses between the attempts at one message.

    Args:
        pauses: in seconds; there is one attempt more.
    """

    def __init__(self, pauses: Sequence[float]) -> None:
        self._pauses = tuple(pauses)
        self.longest = max(self._pauses, default=0.0) * (1 + _JITTER)
        self._patience = 2 * sum(self._pauses) + MOST_RETRY_AFTER

    def pause(self, attempts: int, asked: float = 0.0) -> float | None:
        """Return the pause after ``attempts`` failed ones in seconds; None: give it up.

        Args:
            attempts: 1 or more.
            asked: what the receiver asked for.
        """
        if attempts > len(self._pauses):
            return None
        jitter = _random.uniform(1 - _JITTER, 1 + _JITTER)
        return max(self._pauses[attempts - 1] * jitter, min(asked, MOST_RETRY_AFTER))

    def is_too_old(self, age: float) -> bool:
        """Tell whether a message is given up for its age in seconds, however few the attempts.

        A receiver that is down gets few attempts at each of many messages.
        """
        return age > self._patience


def retry_after(text: str | None) -> float:
    """Return the seconds that a ``Retry-After`` asks for; 0 if it is invalid."""
    if text is None:
        return 0.0
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
