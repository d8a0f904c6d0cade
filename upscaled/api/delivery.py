"""Which bytes of a result have reached its caller, over however many requests."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections import OrderedDict
from dataclasses import dataclass

_REMEMBERED = 1024  # results in delivery; older ones merely stay until they expire
_TCP_CLOSE = 7  # linux/tcp_states.h


@dataclass(frozen=True)
class Span:
    """The bytes from ``start`` (included) to ``stop`` (excluded)."""

    start: int
    stop: int


class Delivery:
    """The delivered bytes of one result.

    ``settled`` is clear while the last bytes of a complete delivery are under way: who asks for
    the same result meanwhile waits, since in a moment it will be gone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.settled = asyncio.Event()
        self.settled.set()
        self._spans: list[Span] = []
        self._perhaps: Span | None = None  # of the latest request that broke off

    def add(self, span: Span) -> None:
        """Take note that ``span`` was delivered."""
        start, stop = span.start, span.stop
        apart = []
        for other in self._spans:
            if other.stop < start or other.start > stop:
                apart.append(other)
            else:
                start, stop = min(start, other.start), max(stop, other.stop)
        self._spans = [*apart, Span(start, stop)]

    def add_broken(self, span: Span) -> None:
        """Take note of a request that broke off after ``span`` was handed to the network.

        How much of it arrived only the caller knows, and tells with the next request.
        """
        self._perhaps = span

    def asked(self, start: int | None) -> None:
        """Take note of what a caller asks for next, before it is sent.

        Who continues a broken download (``Range: bytes=start-``) has what came before. Any other
        request tells nothing about what arrived, so what broke off counts for nothing.

        Args:
            start: the first byte of all the rest; None where something else is asked for.
        """
        perhaps, self._perhaps = self._perhaps, None
        if start is not None and perhaps is not None and perhaps.start < start <= perhaps.stop:
            self.add(Span(perhaps.start, start))

    @property
    def complete(self) -> bool:
        """Tell whether every byte was delivered."""
        return self._spans == [Span(0, self.size)]

    def would_complete(self, span: Span) -> bool:
        """Tell whether every byte will have been delivered when ``span`` has."""
        trial = Delivery(self.size)
        trial._spans = list(self._spans)
        trial.add(span)
        return trial.complete


class Deliveries:
    """The deliveries by job id; the oldest are forgotten when there are too many."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, Delivery] = OrderedDict()

    async def settle(self, job_id: str, seconds: float) -> None:
        """Wait, for so long at most, while the job's result is just being handed over."""
        if delivery := self._by_job.get(job_id):
            try:
                await asyncio.wait_for(delivery.settled.wait(), seconds)
            except TimeoutError:
                return

    def of(self, job_id: str, size: int) -> Delivery:
        """Return the delivery of the job's result of ``size`` bytes."""
        delivery = self._by_job.get(job_id)
        if delivery is None or delivery.size != size:
            delivery = self._by_job[job_id] = Delivery(size)
        self._by_job.move_to_end(job_id)
        while len(self._by_job) > _REMEMBERED:
            self._by_job.popitem(last=False)
        return delivery

    def forget(self, job_id: str) -> None:
        """Drop what is known of the job's delivery."""
        self._by_job.pop(job_id, None)


class Receipt:
    """Tells when the other end of a connection has confirmed all that was sent to it.

    It keeps a descriptor of its own: a caller that has got everything may close the connection
    before we come to ask.
    """

    def __init__(self, transport: asyncio.Transport | None) -> None:
        connection = transport.get_extra_info("socket") if transport else None
        if transport is None or connection is None or transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        self._transport = transport
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def _unconfirmed(self) -> int:
        """Return how many bytes the other end has not confirmed."""
        packed = fcntl.ioctl(self._socket, termios.TIOCOUTQ, struct.pack("i", 0))
        (count,) = struct.unpack("i", packed)
        return int(count)

    def _reset(self) -> bool:
        """Tell whether the other end broke the connection off instead of closing it."""
        if self._socket.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    async def confirmed(self, seconds: float) -> None:
        """Wait until every byte is confirmed.

        Raises:
            ConnectionError: the connection broke before, or ``seconds`` passed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.001
        while True:
            pending = self._transport.get_write_buffer_size()
            if self._reset() or (pending and self._transport.is_closing()):
                raise ConnectionResetError("the caller broke the download off")
            if not pending and not self._unconfirmed():
                return
            if loop.time() > deadline:
                raise ConnectionAbortedError("the caller stopped reading")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
