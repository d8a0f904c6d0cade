"""Resolves host names without blocking other work."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Collection

Lookup = Callable[[str], Awaitable[Collection[str]]]
"""Resolves a host name to addresses; raises `OSError` if it has none."""

_MOST = 16
"""Lookups at the same time; further ones wait."""


class SystemLookup:
    """Asks the system's resolver, in threads of its own.

    A name server that does not answer holds a thread for up to a minute. It must not hold up the
    threads that serve files, nor the end of the process.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_MOST)

    async def __call__(self, host: str) -> Collection[str]:
        """Return the addresses of ``host``.

        Raises:
            OSError: it has none.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def report(found: list[str] | Exception) -> None:
            self._free.release()
            if answer.done():  # its caller is gone
                return
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def look_up() -> None:
            found: list[str] | Exception
            try:
                infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                found = list(dict.fromkeys(str(info[4][0]) for info in infos))
            except (OSError, UnicodeError) as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(report, found)

        threading.Thread(target=look_up, name="lookup", daemon=True).start()
        return await answer
