"""`in_order`: a few pages are worked on side by side, and handed out in the archive's order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from upscaled.archives.plan import Planned

T = TypeVar("T")


async def in_order(
    planned: Sequence[Planned],
    first: int,
    width: int,
    upscale: Callable[[int, Planned], Coroutine[Any, Any, T]],
    name: str,
) -> AsyncGenerator[tuple[Planned, int, T | None]]:
    """Yield the entries from ``first`` on, each page once its result is there.

    Memory and disk stay the same however many pages there are. The generator must be closed
    (`contextlib.aclosing`): this cancels the pages that are still worked on.

    Args:
        planned: all entries.
        first: index of the first one to yield.
        width: how many pages are worked on at a time.
        upscale: works on the page of a number; pages count from 1.
        name: what the names of the tasks begin with.

    Yields:
        The entry, its number among the pages, and what ``upscale`` returned. An entry that is no
        page has the number 0 and None.

    Raises:
        Exception: what ``upscale`` raised for the page that is next.
    """
    pages = [at for at, one in enumerate(planned) if one.page]
    numbers = {at: number for number, at in enumerate(pages, start=1)}
    rest = iter([at for at in pages if at >= first])
    ahead: dict[int, asyncio.Task[T]] = {}
    try:
        for at in range(first, len(planned)):
            while len(ahead) < width and (page := next(rest, None)) is not None:
                number = numbers[page]
                ahead[page] = asyncio.create_task(
                    upscale(number, planned[page]), name=f"{name}-{number}"
                )
            if at in ahead:
                result = await ahead[at]
                del ahead[at]
                yield planned[at], numbers[at], result
            else:
                yield planned[at], 0, None
    finally:
        for task in ahead.values():
            task.cancel()
        await asyncio.gather(*ahead.values(), return_exceptions=True)
