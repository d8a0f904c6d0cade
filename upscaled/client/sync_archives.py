"""Archives of the plain client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from upscaled.client.archives import AsyncArchives, OnPage
from upscaled.client.download import Downloaded
from upscaled.client.status import ArchivePage, ArchiveStatus
from upscaled.client.submission import Fields

T = TypeVar("T")


class _Call(Protocol):
    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


class Archives:
    """`AsyncArchives` for programs without an event loop; `Client.archives` is one.

    Args:
        archives: does the work.
        call: waits for it.
    """

    def __init__(self, archives: AsyncArchives, call: _Call) -> None:
        self._archives = archives
        self._call = call

    def submit(self, archive: Path | bytes, fields: Fields | None = None, *, name: str = "") -> str:
        """See `AsyncArchives.submit`."""
        return self._call(self._archives.submit(archive, fields, name=name))

    def status(self, archive_id: str, *, wait: int = 0) -> ArchiveStatus:
        """See `AsyncArchives.status`."""
        return self._call(self._archives.status(archive_id, wait=wait))

    def list(self) -> Iterator[ArchiveStatus]:
        """See `AsyncArchives.list`."""
        return self._each(self._archives.list())

    def pages(self, archive_id: str) -> Iterator[ArchivePage]:
        """See `AsyncArchives.pages`."""
        return self._each(self._archives.pages(archive_id))

    def _each(self, found: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T | None:
            return await anext(found, None)

        while (one := self._call(following())) is not None:
            yield one

    def wait(self, archive_id: str, on_page: OnPage | None = None) -> ArchiveStatus:
        """See `AsyncArchives.wait`; ``on_page`` is called in the client's thread."""
        return self._call(self._archives.wait(archive_id, on_page))

    def download(self, archive_id: str, target: Path) -> Downloaded:
        """See `AsyncArchives.download`."""
        return self._call(self._archives.download(archive_id, target))

    def upscale(
        self,
        archive: Path | bytes,
        target: Path,
        fields: Fields | None = None,
        *,
        name: str = "",
        on_page: OnPage | None = None,
    ) -> ArchiveStatus:
        """See `AsyncArchives.upscale`; ``on_page`` is called in the client's thread."""
        return self._call(
            self._archives.upscale(archive, target, fields, name=name, on_page=on_page)
        )

    def delete(self, archive_id: str) -> None:
        """See `AsyncArchives.delete`."""
        self._call(self._archives.delete(archive_id))
