"""The plain client: `AsyncClient` for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from upscaled.client.async_client import AsyncClient, OnProgress
from upscaled.client.download import Downloaded
from upscaled.client.status import Estimate, Health, JobStatus, ModelInfo
from upscaled.client.submission import Fields
from upscaled.client.sync_archives import Archives
from upscaled.client.transport import Retries

T = TypeVar("T")


class Client:
    """Calls one server; its methods are those of `AsyncClient` and raise the same errors.

    Use it as a context manager. An event loop runs in a thread of its own from then until
    `close`. Several threads may use one client.

    Args:
        url: the server's address, such as ``http://127.0.0.1:8089``.
        token: its token, if it needs one.
        retries: how long requests are repeated.
        silence_seconds: an answer that brings nothing for so long counts as broken off.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        retries: Retries | None = None,
        silence_seconds: float = 90.0,
    ) -> None:
        self._client = AsyncClient(
            url, token=token, retries=retries, silence_seconds=silence_seconds
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="upscaled client", daemon=True
        )
        self._thread.start()
        self.archives = Archives(self._client.archives, self._call)
        """Archives whose pages are upscaled."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._loop.is_closed():
            return
        self._call(self._client.close())
        self._call(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` in the thread; an interruption, such as Ctrl-C, cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def submit(self, picture: Path | bytes, fields: Fields | None = None, *, name: str = "") -> str:
        """See `AsyncClient.submit`."""
        return self._call(self._client.submit(picture, fields, name=name))

    def status(self, job_id: str, *, wait: int = 0) -> JobStatus:
        """See `AsyncClient.status`."""
        return self._call(self._client.status(job_id, wait=wait))

    def wait(self, job_id: str, on_progress: OnProgress | None = None) -> JobStatus:
        """See `AsyncClient.wait`; ``on_progress`` is called in the client's thread."""
        return self._call(self._client.wait(job_id, on_progress))

    def download(self, job_id: str, target: Path) -> Downloaded:
        """See `AsyncClient.download`."""
        return self._call(self._client.download(job_id, target))

    def upscale(
        self,
        picture: Path | bytes,
        target: Path,
        fields: Fields | None = None,
        *,
        name: str = "",
        on_progress: OnProgress | None = None,
    ) -> JobStatus:
        """See `AsyncClient.upscale`; ``on_progress`` is called in the client's thread."""
        return self._call(
            self._client.upscale(picture, target, fields, name=name, on_progress=on_progress)
        )

    def cancel(self, job_id: str) -> None:
        """See `AsyncClient.cancel`."""
        self._call(self._client.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """See `AsyncClient.delete`."""
        self._call(self._client.delete(job_id))

    def jobs(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        client_ref: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
    ) -> Iterator[JobStatus]:
        """See `AsyncClient.jobs`."""
        found = self._client.jobs(
            state=state,
            model=model,
            client_ref=client_ref,
            created_after=created_after,
            created_before=created_before,
        )

        async def following() -> JobStatus | None:
            return await anext(found, None)

        while (job := self._call(following())) is not None:
            yield job

    def estimate(self, width: int, height: int, fields: Fields | None = None) -> Estimate:
        """See `AsyncClient.estimate`."""
        return self._call(self._client.estimate(width, height, fields))

    def models(self) -> tuple[ModelInfo, ...]:
        """See `AsyncClient.models`."""
        return self._call(self._client.models())

    def health(self) -> Health:
        """See `AsyncClient.health`."""
        return self._call(self._client.health())
