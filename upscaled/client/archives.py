"""Archives of the asynchronous client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

from upscaled.client.answers import parsed, typed
from upscaled.client.download import Downloaded, download
from upscaled.client.errors import ArchiveFailedError, NoSuchJobError
from upscaled.client.events import POLL_SECONDS, followed
from upscaled.client.status import ArchivePage, ArchiveStatus
from upscaled.client.submission import Fields, submitted, taken_back
from upscaled.client.transport import Transport

OnPage = Callable[[ArchivePage], None]


class AsyncArchives:
    """Archives whose pages a server upscales; `AsyncClient.archives` is one.

    All methods raise `ClientError`.

    Args:
        transport: to the server.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def submit(
        self, archive: Path | bytes, fields: Fields | None = None, *, name: str = ""
    ) -> str:
        """Submit an archive and return its id; see `AsyncClient.submit`.

        Args:
            archive: a file, or its content.
            fields: those of a picture, for each page, and ``only_below`` and ``on_bad_page``.
            name: the file's name; its ending distinguishes a CBZ from a ZIP.
        """
        return await submitted(
            self._transport, "/archives", "archive", archive, fields, name=name,
            answered="archive_id",
        )  # fmt: skip

    async def status(self, archive_id: str, *, wait: int = 0) -> ArchiveStatus:
        """Return the state of an archive; wait for its end, ``wait`` seconds at most.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        params = {"wait": str(wait)} if wait else {}
        answer = await self._transport.json("GET", f"/archives/{archive_id}", params=params)
        return typed(answer, ArchiveStatus)

    async def list(self) -> AsyncIterator[ArchiveStatus]:
        """Yield the archives of the token, newest first."""
        async for row in self._transport.listed("/archives", "archives"):
            yield typed(row, ArchiveStatus)

    async def pages(self, archive_id: str) -> AsyncIterator[ArchivePage]:
        """Yield how the pages stand, in their order."""
        async for row in self._transport.listed(f"/archives/{archive_id}/pages", "pages"):
            yield typed(row, ArchivePage)

    async def follow(self, archive_id: str) -> AsyncGenerator[ArchivePage, None]:
        """Yield each page when it is done, in order; returns when the archive has ended.

        If no events arrive, the status is polled.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        seen = 0
        events = followed(self._transport, f"/archives/{archive_id}/events", _page_or_status)
        async with contextlib.aclosing(events):
            async for told in events:
                if isinstance(told, ArchivePage):
                    seen = told.number
                    yield told
                elif told.ended:
                    return
        while True:
            status = await self.status(archive_id, wait=POLL_SECONDS)
            async for page in self._done(archive_id, seen, status.pages_done):
                seen = page.number
                yield page
            if status.ended:
                return

    async def _done(self, archive_id: str, seen: int, done: int) -> AsyncIterator[ArchivePage]:
        """Yield the pages behind ``seen`` that are done."""
        if seen < done:
            address = f"/archives/{archive_id}/pages"
            async for row in self._transport.listed(address, "pages", {"cursor": str(seen)}):
                page = typed(row, ArchivePage)
                if page.number <= done:
                    yield page
                if page.number >= done:
                    return

    async def wait(self, archive_id: str, on_page: OnPage | None = None) -> ArchiveStatus:
        """Wait until an archive is completed and return its status.

        Args:
            archive_id: the archive.
            on_page: called with each page that is done.

        Raises:
            ArchiveFailedError: it failed.
            NoSuchJobError: the server does not know it.
        """
        async with contextlib.aclosing(self.follow(archive_id)) as pages:
            async for page in pages:
                if on_page is not None:
                    on_page(page)
        status = await self.status(archive_id)
        if status.status == "failed":
            raise ArchiveFailedError(status)
        return status

    async def download(self, archive_id: str, target: Path) -> Downloaded:
        """Download the new archive; see `AsyncClient.download`."""
        address = f"/archives/{archive_id}/download"
        return await download(self._transport, archive_id, target, address=address)

    async def upscale(
        self,
        archive: Path | bytes,
        target: Path,
        fields: Fields | None = None,
        *,
        name: str = "",
        on_page: OnPage | None = None,
    ) -> ArchiveStatus:
        """Submit an archive, wait for its end and download the new one to ``target``.

        When this is cancelled, the archive is deleted on the server.
        """
        archive_id = await self.submit(archive, fields, name=name)
        async with taken_back(lambda: self.delete(archive_id)):
            status = await self.wait(archive_id, on_page)
            await self.download(archive_id, target)
        return status

    async def delete(self, archive_id: str) -> None:
        """Delete an archive, and stop it first; one that is not there is deleted."""
        with contextlib.suppress(NoSuchJobError):
            await self._transport.json("DELETE", f"/archives/{archive_id}")


def _page_or_status(data: str) -> ArchivePage | ArchiveStatus:
    told = parsed(data)
    if isinstance(told, dict) and "number" in told:
        return typed(told, ArchivePage)
    return typed(told, ArchiveStatus)
