"""Which bytes of a result its caller has received, over any number of requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

_REMEMBERED = 1024  # transfers; results of forgotten ones stay until they expire


@dataclass(frozen=True)
class Span:
    """The bytes from ``start`` (included) to ``stop`` (excluded)."""

    start: int
    stop: int


class Transfer:
    """The delivered bytes of one result.

    ``settled`` is clear while the last missing bytes are being sent. Other requests for the
    result wait for it, since the result is about to be deleted.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.settled = asyncio.Event()
        self.settled.set()
        self.through_proxy = False
        """Whether a part of it went through a proxy."""
        self._spans: list[Span] = []
        self._perhaps: Span | None = None  # of the latest request that broke off

    def add(self, span: Span) -> None:
        """Note that ``span`` was delivered."""
        start, stop = span.start, span.stop
        apart = []
        for other in self._spans:
            if other.stop < start or other.start > stop:
                apart.append(other)
            else:
                start, stop = min(start, other.start), max(stop, other.stop)
        self._spans = [*apart, Span(start, stop)]

    def add_broken(self, span: Span) -> None:
        """Record that a request broke off after ``span`` was handed to the network.

        Only the caller knows how much of it arrived; its next request shows it.
        """
        self._perhaps = span

    def asked(self, start: int | None) -> None:
        """Record what a caller asks for next, before it is sent.

        A caller that continues a broken download (``Range: bytes=start-``) has received the bytes
        before ``start``. After any other request the broken download counts as not received.

        Args:
            start: first byte of an open range; None for any other request.
        """
        perhaps, self._perhaps = self._perhaps, None
        if start is not None and perhaps is not None and perhaps.start < start <= perhaps.stop:
            self.add(Span(perhaps.start, start))

    @property
    def complete(self) -> bool:
        """Tell whether every byte was delivered."""
        return self._spans == [Span(0, self.size)]

    def would_complete(self, span: Span) -> bool:
        """Tell whether the transfer is complete once ``span`` is delivered."""
        trial = Transfer(self.size)
        trial._spans = list(self._spans)
        trial.add(span)
        return trial.complete


class TransferTracker:
    """The transfers by job id. The least recently used one is forgotten first."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, Transfer] = OrderedDict()
        self._together: dict[str, asyncio.Event] = {}

    async def settle(self, job_id: str, seconds: float) -> None:
        """Wait, ``seconds`` at most, while the last bytes of a job's result are being sent."""
        transfer, together = self._by_job.get(job_id), self._together.get(job_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if transfer is not None:
                    await transfer.settled.wait()
                if together is not None:
                    await together.wait()

    @contextlib.contextmanager
    def together(self, job_ids: Collection[str]) -> Iterator[Callable[[], None]]:
        """Have `settle` wait for results that are sent in one archive.

        ``job_ids`` may grow until the call. It waits from the call of
        what this yields, before the last bytes, until the block ends.
        """
        settled = asyncio.Event()
        try:
            yield lambda: self._together.update(dict.fromkeys(job_ids, settled))
        finally:
            for job_id in job_ids:
                if self._together.get(job_id) is settled:
                    del self._together[job_id]
            settled.set()

    def of(self, job_id: str, size: int) -> Transfer:
        """Return the transfer of the job's result of ``size`` bytes."""
        transfer = self._by_job.get(job_id)
        if transfer is None or transfer.size != size:
            transfer = self._by_job[job_id] = Transfer(size)
        self._by_job.move_to_end(job_id)
        while len(self._by_job) > _REMEMBERED:
            self._by_job.popitem(last=False)
        return transfer

    def forget(self, job_id: str) -> None:
        """Forget the job's transfer."""
        self._by_job.pop(job_id, None)
