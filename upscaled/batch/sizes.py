"""`Sizes`: reads the sizes of many pictures, without decoding one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from upscaled.errors import UpscaledError
from upscaled.pictures import Size

if TYPE_CHECKING:
    from upscaled.imaging import Probe

_TOGETHER = 64
"""Pictures whose headers are read in one confined process. Starting that takes 5 ms, which is ten
times what it takes to read a header."""


class ReadsHeaders(Protocol):
    """What of `Imaging` is needed here."""

    async def probe_all(self, uploads: Sequence[Path]) -> list[Probe | UpscaledError]:
        """Return for each picture its header, or what is wrong with it."""
        ...


class Sizes:
    """Reads the sizes of pictures. Those that are asked for at the same time share a process.

    Args:
        imaging: reads headers.
        at_once: how many processes may work at a time.
    """

    def __init__(self, imaging: ReadsHeaders, at_once: int) -> None:
        self._imaging = imaging
        self._at_once = at_once
        self._waiting: deque[tuple[Path, asyncio.Future[Size]]] = deque()
        self._readers: set[asyncio.Task[None]] = set()

    async def of(self, path: Path) -> Size:
        """Return the size of a picture, as it is shown.

        Raises:
            UpscaledError: it is none, or can't be read.
        """
        answer: asyncio.Future[Size] = asyncio.get_running_loop().create_future()
        self._waiting.append((path, answer))
        # One reader is enough until more than it takes at a time are waiting.
        wanted = 1 + len(self._waiting) // _TOGETHER
        if len(self._readers) < min(wanted, self._at_once):
            self._readers.add(asyncio.create_task(self._read(), name="sizes"))
        return await answer

    async def _read(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
                if asked := [one for one in some if not one[1].done()]:
                    await self._answer(asked)
        finally:
            # At once, not by a callback: whoever asks next must start another reader.
            self._readers -= {asyncio.current_task()}

    async def _answer(self, asked: list[tuple[Path, asyncio.Future[Size]]]) -> None:
        found: Sequence[Probe | Exception]
        try:
            found = await self._imaging.probe_all([path for path, _ in asked])
        except Exception as error:
            found = [error] * len(asked)
        for (_, answer), one in zip(asked, found, strict=True):
            if answer.done():  # nobody waits for it any more
                continue
            if isinstance(one, Exception):
                answer.set_exception(one)
            else:
                answer.set_result(one.size)

    async def close(self) -> None:
        """End the readers, when nobody waits for a size any more."""
        readers = list(self._readers)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
