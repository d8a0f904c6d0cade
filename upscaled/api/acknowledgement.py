"""Whether the other end of a connection has acknowledged what was sent to it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios

_TCP_CLOSE = 7  # linux/tcp_states.h


class Acknowledgement:
    """Watches a connection until the other end has acknowledged all bytes.

    It has a descriptor of its own: a caller that has received everything may close the
    connection before we ask.

    Args:
        transport: the connection.

    Raises:
        ConnectionResetError: the connection is closed.
    """

    def __init__(self, transport: asyncio.Transport | None) -> None:
        connection = transport.get_extra_info("socket") if transport else None
        if transport is None or connection is None or transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._transport = transport
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def _unacknowledged(self) -> int:
        """Return how many sent bytes the other end has not acknowledged."""
        packed = fcntl.ioctl(self._socket, termios.TIOCOUTQ, struct.pack("i", 0))
        (count,) = struct.unpack("i", packed)
        return int(count)

    def _was_reset(self) -> bool:
        """Tell whether the other end reset the connection instead of closing it."""
        if self._socket.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    async def wait(self, seconds: float) -> None:
        """Wait until every byte is acknowledged.

        Raises:
            ConnectionError: the connection broke before, or ``seconds`` passed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.001
        while True:
            unsent = self._transport.get_write_buffer_size()
            if self._was_reset() or (unsent and self._transport.is_closing()):
                raise ConnectionResetError("the caller broke the download off")
            if not unsent and not self._unacknowledged():
                return
            if loop.time() > deadline:
                raise ConnectionAbortedError("the caller stopped reading")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
