"""The asynchronous client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from upscaled.client.answers import parsed, typed
from upscaled.client.archives import AsyncArchives
from upscaled.client.download import Downloaded, download
from upscaled.client.errors import JobCancelledError, JobFailedError, NoSuchJobError
from upscaled.client.events import POLL_SECONDS, followed
from upscaled.client.status import Estimate, Health, JobStatus, ModelInfo
from upscaled.client.submission import Fields, submitted, taken_back, texts
from upscaled.client.transport import Retries, Transport, json_of

OnProgress = Callable[[JobStatus], None]


class AsyncClient:
    """Calls one server.

    Use it as a context manager. Requests are repeated after network errors and while the server is
    busy; its ``Retry-After`` is respected. All methods raise `ClientError`.

    Args:
        url: the server's address, such as ``http://127.0.0.1:8089``.
        token: its token, if it needs one.
        retries: how long requests are repeated.
        silence_seconds: an answer without bytes for this long counts as broken off. Waiting answers
            take up to 45 s.
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

        However often the request is repeated, the server creates one job.

        Args:
            picture: a file, or its content.
            fields: those of the API, such as ``{"scale": 2, "model_name": "…"}``.
            name: the file's name; the default is the path's own.

        Raises:
            PictureRefusedError: it can't be upscaled.
            FieldRefusedError: a field is wrong.
            BusyError: the server accepts no more jobs now.
            LocalFileError: the file can't be read.
        """
        return await submitted(
            self._transport, "/upscale", "image", picture, fields, name=name, answered="job_id"
        )

    async def status(self, job_id: str, *, wait: int = 0) -> JobStatus:
        """Return the state of a job; wait for its end, ``wait`` seconds at most.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        params = {"wait": str(wait)} if wait else {}
        answer = await self._transport.json("GET", f"/status/{job_id}", params=params)
        return typed(answer, JobStatus)

    async def follow(self, job_id: str) -> AsyncGenerator[JobStatus, None]:
        """Yield the state of a job, then each change; the last one is its end.

        The changes come as events. Where these do not come through, the status is polled.

        Raises:
            NoSuchJobError: the server does not know it.
        """
        events = followed(self._transport, f"/events/{job_id}", _status)
        async with contextlib.aclosing(events):
            async for status in events:
                yield status
                if status.ended:
                    return
        while True:
            status = await self.status(job_id, wait=POLL_SECONDS)
            yield status
            if status.ended:
                return

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

        A download that breaks off is continued, also by a later call with the same arguments: the
        received bytes are in a hidden file beside ``target``. The whole file is compared with the
        SHA-256 that the server announces, synced, and renamed to ``target``.

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
        async with taken_back(lambda: self.cancel(job_id)):
            status = await self.wait(job_id, on_progress)
            await download(self._transport, job_id, target, continuable=False)
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
        """Yield the jobs of the token, newest first; None matches any value.

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
        async for job in self._transport.listed("/jobs", "jobs", params):
            yield typed(job, JobStatus)

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


def _status(data: str) -> JobStatus:
    return typed(parsed(data), JobStatus)
