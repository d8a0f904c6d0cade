"""`Upscaler`: what makes the results of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from upscaled.pictures import Size

OnPercent = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """One picture to upscale."""

    source: Path
    target: Path
    """Its folder is there. It is written completely or not at all."""
    fields: Mapping[str, str]
    """As in a request to the server, without ``image``."""
    key: str = ""
    """Stands for content and fields; an interrupted task of this key is continued."""


@dataclass(frozen=True)
class Made:
    """A result in its place."""

    input_size: Size
    output_size: Size
    device: str
    failed_pages: int = 0
    """Of an archive: pages that stay as they are."""


class Upscaler(Protocol):
    """Makes results, several at a time; a context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @property
    def parallel(self) -> int:
        """How many tasks it needs at a time to be busy."""
        ...

    async def completed(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Return ``fields`` with the default model and scale, where they name none.

        Raises:
            UpscaledError: a field is wrong for every picture, or the server can't be used.
        """
        ...

    async def upscale(self, task: Task, on_percent: OnPercent) -> Made:
        """Make one result.

        Raises:
            UpscaledError: one sentence about what is wrong.
        """
        ...

    async def recorded(self, task: Task) -> None:
        """Hear that the result of ``task`` is recorded, so that the task will not come again."""
        ...

    async def estimate(self, size: Size, fields: Mapping[str, str]) -> tuple[Size, float]:
        """Return the size of a result, and the seconds it adds to a run.

        Raises:
            UpscaledError: such a picture can't be upscaled.
        """
        ...
