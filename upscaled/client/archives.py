"""Archives of the asynchronous client."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

from upscaled.client.answers import parsed, typed
from upscaled.client.download import Downloaded, download
from upscaled.client.errors import (
    ArchiveFailedError,
    BusyError,
    ClientError,
    NoSuchJobError,
    UnexpectedAnswerError,
    UnreachableError,
)
from upscaled.client.events import read_events
from upscaled.client.status import ArchivePage, ArchiveStatus
from upscaled.client.submission import Fields, submitted
from upscaled.client.transport import Transport

OnPage = Callable[[ArchivePage], None]

_POLL_SECONDS = 5
_PAGE = 200


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
            name: the file's name; it tells a CBZ from a ZIP.
        """
        key = uuid.uuid4().hex
        name = name or (archive.name if isinstance(archive, Path) else "archive")
        answer = await submitted(
            self._transport, "/archives", "archive", archive, fields, name=name, key=key
        )
        try:
            return str(answer["archive_id"])
        except (KeyError, TypeError):
            raise UnexpectedAnswerError("The server's answer names no archive.") from None

    async def status(self, archive_id: str, *, wait: int = 0) -> ArchiveStatus:
        """Return how an archive stands, or after ``wait`` seconds at most, how it ended.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        params = {"wait": str(wait)} if wait else {}
        answer = await self._transport.json("GET", f"/archives/{archive_id}", params=params)
        return typed(answer, ArchiveStatus)

    async def list(self) -> AsyncIterator[ArchiveStatus]:
        """Yield the archives of the token, newest first."""
        async for row in self._listed("/archives", "archives"):
            yield typed(row, ArchiveStatus)

    async def pages(self, archive_id: str) -> AsyncIterator[ArchivePage]:
        """Yield how the pages stand, in their order."""
        async for row in self._listed(f"/archives/{archive_id}/pages", "pages"):
            yield typed(row, ArchivePage)

    async def _listed(self, path: str, what: str) -> AsyncIterator[Any]:
        params = {"limit": str(_PAGE)}
        while True:
            page = await self._transport.json("GET", path, params=params)
            for row in page[what]:
                yield row
            if "next_cursor" not in page:
                return
            params["cursor"] = page["next_cursor"]

    async def follow(self, archive_id: str) -> AsyncGenerator[ArchivePage, None]:
        """Yield each page when it is done, in order; returns when the archive has ended.

        Where events do not come through, it is asked for again and again.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        seen = failures = 0
        while failures < 2:
            try:
                async for page in self._events(archive_id, seen):
                    if page is None:
                        return
                    seen, failures = page.number, 0
                    yield page
                failures += 1
            except (UnreachableError, UnexpectedAnswerError, BusyError):
                failures += 1
        while True:
            status = await self.status(archive_id, wait=_POLL_SECONDS)
            async for page in self._done(archive_id, seen, status.pages_done):
                seen = page.number
                yield page
            if status.ended:
                return

    async def _done(self, archive_id: str, seen: int, done: int) -> AsyncIterator[ArchivePage]:
        """Yield the pages behind ``seen`` that are done."""
        while seen < done:
            params = {"cursor": str(seen), "limit": str(_PAGE)}
            told = await self._transport.json("GET", f"/archives/{archive_id}/pages", params=params)
            pages = [typed(row, ArchivePage) for row in told["pages"]]
            for page in pages[: done - seen]:
                yield page
            if not pages:
                return
            seen = pages[-1].number

    async def _events(self, archive_id: str, seen: int) -> AsyncGenerator[ArchivePage | None, None]:
        """Yield the pages that the events tell; None at the archive's end."""
        headers = {"Accept": "text/event-stream"}
        if seen:
            headers["Last-Event-ID"] = str(2 * seen)
        path = f"/archives/{archive_id}/events"
        async with self._transport.attempt("GET", path, headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                raise UnexpectedAnswerError("The server sends no events.")
            async for event in read_events(answer.content):
                told = parsed(event.data)
                if isinstance(told, dict) and "number" in told:
                    yield typed(told, ArchivePage)
                elif typed(told, ArchiveStatus).ended:
                    yield None
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
        try:
            status = await self.wait(archive_id, on_page)
            await self.download(archive_id, target)
        except asyncio.CancelledError:
            with contextlib.suppress(ClientError, TimeoutError):
                async with asyncio.timeout(5):
                    await self.delete(archive_id)
            raise
        return status

    async def delete(self, archive_id: str) -> None:
        """Delete an archive, and stop it first; one that is not there is deleted."""
        with contextlib.suppress(NoSuchJobError):
            await self._transport.json("DELETE", f"/archives/{archive_id}")
