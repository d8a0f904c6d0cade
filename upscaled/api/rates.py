"""How often one client may submit: a sliding minute per address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from upscaled.errors import TooManyRequestsError

_WINDOW = 60.0
_CLIENTS = 10_000  # remembered; beyond that the one that was idle longest is forgotten


class RateLimit:
    """At most ``per_minute`` submissions a minute and client; 0: no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Count a submission of ``client``.

        Raises:
            TooManyRequestsError: it has had its share of the last minute; this one is not
                counted, so waiting as long as ``Retry-After`` says always helps.
        """
        if not self._per_minute:
            return
        now = self._clock()
        times = self._times.setdefault(client, deque())
        self._times.move_to_end(client)
        if len(self._times) > _CLIENTS:
            self._times.popitem(last=False)
        while times and times[0] <= now - _WINDOW:
            times.popleft()
        if len(times) >= self._per_minute:
            wait = max(1, math.ceil(times[0] + _WINDOW - now))
            raise TooManyRequestsError(
                f"More than {self._per_minute} submissions in a minute; try again in {wait} s.",
                headers={"Retry-After": str(wait)},
            )
        times.append(now)
