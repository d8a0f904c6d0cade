"""The asynchronous client."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from upscaled.client.answers import parsed, typed
from upscaled.client.archives import AsyncArchives
from upscaled.client.download import Downloaded, download
from upscaled.client.errors import (
    BusyError,
    ClientError,
    JobCancelledError,
    JobFailedError,
    NoSuchJobError,
    UnexpectedAnswerError,
    UnreachableError,
)
from upscaled.client.events import read_events
from upscaled.client.status import Estimate, Health, JobStatus, ModelInfo
from upscaled.client.submission import Fields, submitted, texts
from upscaled.client.transport import Retries, Transport, json_of

T = TypeVar("T")

OnProgress = Callable[[JobStatus], None]

_POLL_SECONDS = 5
"""How long a status request waits for the job's end where there are no events."""
_PAGE = 200


class AsyncClient:
    """Calls one server.

    Use it as a context manager. Requests that fail on the way, or that the server is too busy for,
    are repeated; its ``Retry-After`` is respected. All methods raise `ClientError`.

    Args:
        url: the server's address, such as ``http://127.0.0.1:8089``.
        token: its token, if it needs one.
        retries: how long requests are repeated.
        silence_seconds: an answer that brings nothing for so long counts as broken off. Waiting
            answers take up to 45 s.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        retries: Retries | None = None,
        silence_seconds: float = 90.0,
    ) -> None:
        self._transport = Transport(url, token, retries or Retries(), silence_seconds)
        self.archives = AsyncArchives(self._transport)
        """Archives whose pages are upscaled."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def submit(
        self, picture: Path | bytes, fields: Fields | None = None, *, name: str = ""
    ) -> str:
        """Submit a picture and return its job's id.

        A repeated submission has the same ``Idempotency-Key``, so that a server that knows the
        header creates one job.

        Args:
            picture: a file, or its content.
            fields: those of the API, such as ``{"scale": 2, "model_name": "…"}``.
            name: the file's name; the default is the path's own.

        Raises:
            PictureRefusedError: it can't be upscaled.
            FieldRefusedError: a field is wrong.
            BusyError: the server takes no more.
            LocalFileError: the file can't be read.
        """
        key = uuid.uuid4().hex
        name = name or (picture.name if isinstance(picture, Path) else "picture")
        answer = await submitted(
            self._transport, "/upscale", "image", picture, fields, name=name, key=key
        )
        try:
            return str(answer["job_id"])
        except (KeyError, TypeError):
            raise UnexpectedAnswerError(
                f"{self._transport.url} does not answer as an upscaled server does; "
                "check the address."
            ) from None

    async def status(self, job_id: str, *, wait: int = 0) -> JobStatus:
        """Return how a job stands, or after ``wait`` seconds at most, how it ended.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        params = {"wait": str(wait)} if wait else {}
        answer = await self._transport.json("GET", f"/status/{job_id}", params=params)
        return typed(answer, JobStatus)

    async def follow(self, job_id: str) -> AsyncGenerator[JobStatus, None]:
        """Yield how a job stands, then each change; the last one is its end.

        The changes come as events. Where these do not come through, the status is polled.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        last_id, failures = "", 0
        while failures < 2:
            try:
                async for id_, status in self._events(job_id, last_id):
                    last_id, failures = id_, 0
                    yield status
                    if status.ended:
                        return
                failures += 1  # the stream ended too early, or told nothing
            except (UnreachableError, UnexpectedAnswerError, BusyError):
                failures += 1
        while True:
            status = await self.status(job_id, wait=_POLL_SECONDS)
            yield status
            if status.ended:
                return

    async def _events(
        self, job_id: str, last_id: str
    ) -> AsyncGenerator[tuple[str, JobStatus], None]:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        async with self._transport.attempt("GET", f"/events/{job_id}", headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                raise UnexpectedAnswerError("The server sends no events.")
            async for event in read_events(answer.content):
                yield event.id, typed(parsed(event.data), JobStatus)

    async def wait(self, job_id: str, on_progress: OnProgress | None = None) -> JobStatus:
        """Wait until a job is completed and return its status.

        Args:
            job_id: the job.
            on_progress: called with each change, the end included.

        Raises:
            JobFailedError: it failed.
            JobCancelledError: it was cancelled.
            NoSuchJobError: the server does not know it.
        """
        async with contextlib.aclosing(self.follow(job_id)) as changes:
            async for status in changes:
                if on_progress is not None:
                    on_progress(status)
        if status.status == "failed":
            raise JobFailedError(status)
        if status.status == "cancelled":
            raise JobCancelledError(status)
        return status

    async def download(self, job_id: str, target: Path) -> Downloaded:
        """Download a job's result, and wait up to 45 s for it.

        A download that breaks off is continued, also by a later call with the same arguments: what
        has come lies in a hidden file beside ``target``. The whole file is compared with the
        SHA-256 that the server announces, and put in its place when it is complete and on disk.

        Raises:
            ResultDeletedError: it was downloaded already, or expired.
            NotPossibleError: the job did not complete.
            DamagedDownloadError: it has another SHA-256, twice.
            LocalFileError: it can't be written.
        """
        return await download(self._transport, job_id, target)

    async def upscale(
        self,
        picture: Path | bytes,
        target: Path,
        fields: Fields | None = None,
        *,
        name: str = "",
        on_progress: OnProgress | None = None,
    ) -> JobStatus:
        """Submit a picture, wait for its result and download that to ``target``.

        When this is cancelled, so is the job.

        Returns:
            The completed job.
        """
        job_id = await self.submit(picture, fields, name=name)
        try:
            status = await self.wait(job_id, on_progress)
            await download(self._transport, job_id, target, continuable=False)
        except asyncio.CancelledError:
            with contextlib.suppress(ClientError, TimeoutError):
                async with asyncio.timeout(5):
                    await self.cancel(job_id)
            raise
        return status

    async def cancel(self, job_id: str) -> None:
        """Cancel a queued or running job.

        Raises:
            NotPossibleError: it has ended.
            NoSuchJobError: the server does not know it.
        """
        await self._transport.json("POST", f"/cancel/{job_id}")

    async def delete(self, job_id: str) -> None:
        """Delete an ended job and its result; one that is not there is deleted.

        Raises:
            NotPossibleError: it has not ended; cancel it first.
        """
        with contextlib.suppress(NoSuchJobError):
            await self._transport.json("DELETE", f"/jobs/{job_id}")

    async def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        client_ref: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
    ) -> AsyncIterator[JobStatus]:
        """Yield the jobs of the token, newest first; None: whatever it is.

        Times are seconds since 1970.
        """
        wanted: Mapping[str, object | None] = {
            "state": state,
            "model": model,
            "client_ref": client_ref,
            "created_after": created_after,
            "created_before": created_before,
        }
        params = {name: f"{value}" for name, value in wanted.items() if value is not None}
        params["limit"] = str(_PAGE)
        while True:
            page = await self._transport.json("GET", "/jobs", params=params)
            for job in page["jobs"]:
                yield typed(job, JobStatus)
            if "next_cursor" not in page:
                return
            params["cursor"] = page["next_cursor"]

    async def estimate(self, width: int, height: int, fields: Fields | None = None) -> Estimate:
        """Return what a job would take for a picture of ``width`` × ``height`` pixels.

        Raises:
            PictureRefusedError: such a picture can't be upscaled.
            FieldRefusedError: a field is wrong.
        """
        sides = {"input_width": str(width), "input_height": str(height)}
        form = {**sides, **texts(fields)}

        async def once() -> Any:
            data = aiohttp.FormData(form, default_to_multipart=True)
            async with self._transport.attempt("POST", "/estimate", data=data) as response:
                return await json_of(response)

        return typed(await self._transport.repeated(once), Estimate)

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return the installed models."""
        answer = await self._transport.json("GET", "/models")
        return tuple(typed(model, ModelInfo) for model in answer["models"])

    async def health(self) -> Health:
        """Return whether the server can upscale; asks once.

        Raises:
            UnreachableError: it does not answer.
        """
        async with self._transport.attempt("GET", "/health", also={503}) as response:
            return typed(await json_of(response), Health)
