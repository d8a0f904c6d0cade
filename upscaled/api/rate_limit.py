"""How often one client may do something: a sliding window of a minute."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from upscaled.errors import TooManyRequestsError

_WINDOW = 60.0
_CLIENTS = 10_000  # the least recently active one is removed first


class RateLimit:
    """At most ``per_minute`` events a minute and client; 0: no limit.

    Args:
        per_minute: how many.
        events: what is counted, in the plural, for messages and headers.
        clock: seconds, never going back.
    """

    def __init__(
        self, per_minute: int, events: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._events = events
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, client: str) -> dict[str, str]:
        """Count an event of ``client``; return headers that say how much is left.

        Raises:
            TooManyRequestsError: the client has used up the last minute's share. This event is
                not counted, so waiting as long as ``Retry-After`` says always helps.
        """
        if not self._per_minute:
            return {}
        now = self._clock()
        times = self._times.setdefault(client, deque())
        self._times.move_to_end(client)
        if len(self._times) > _CLIENTS:
            self._times.popitem(last=False)
        while times and times[0] <= now - _WINDOW:
            times.popleft()
        refused = len(times) >= self._per_minute
        if not refused:
            times.append(now)
        wait = max(1, math.ceil(times[0] + _WINDOW - now))
        headers = self._headers(self._per_minute - len(times), wait)
        if refused:
            raise TooManyRequestsError(
                f"More than {self._per_minute} {self._events} in a minute; try again in {wait} s.",
                headers={"Retry-After": str(wait), **headers},
            )
        return headers

    def _headers(self, left: int, wait: int) -> dict[str, str]:
        """Return what is left, as old and new draft-ietf-httpapi-ratelimit-headers have it."""
        name = self._events.replace(" ", "-")
        return {
            "RateLimit-Policy": f'"{name}";q={self._per_minute};w={_WINDOW:.0f}',
            "RateLimit": f'"{name}";r={left};t={wait}',
            "RateLimit-Limit": str(self._per_minute),
            "RateLimit-Remaining": str(left),
            "RateLimit-Reset": str(wait),
        }
