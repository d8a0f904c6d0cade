"""`ObjectStoreBlobs`: blobs in S3 and what speaks it, Google Cloud Storage, Azure or a folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from upscaled.blobs.blobs import BlobInfo, BlobMissingError, check_key
from upscaled.errors import ConfigError, NoSpaceError, StoreUnavailableError

log = logging.getLogger(__name__)

_RETRIES: Any = {
    "backoff": {"max_backoff": timedelta(seconds=1)},
    "max_retries": 20,
    "retry_timeout": timedelta(seconds=10),
}
"""How long one request is tried; callers with more time repeat it."""
_TIMEOUTS: Any = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=20)}
"""Of one request, its body included."""
_PART_BYTES = 5 << 20
"""Bytes of a request, sent or received: the smallest part that S3 takes, so that a slow line
carries it within `_TIMEOUTS`."""
_PARTS_AT_ONCE = 2
_FULL = ("No space left", "quota exceeded", "QuotaExceeded", "StorageFull", "507 Insufficient")
"""Stores report that they are full only as text."""


class ObjectStoreBlobs:
    """Blobs in an object store.

    Args:
        url: such as ``s3://bucket/path``. Credentials, region and endpoint come from the
            environment, by the names that the store's own tools use (``AWS_…``, ``GOOGLE_…``,
            ``AZURE_…``).
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: ObjectStore | None = None

    async def open(self) -> None:
        """Make the client, and ask the store for a blob that is not there."""
        try:
            self._opened = await asyncio.to_thread(self._make)
        except (exceptions.BaseError, ValueError, TypeError) as error:
            raise ConfigError(f"cluster.blobs is {self._url!r}: {_said(error)}.") from None
        try:
            await self.head("probe")
        except BlobMissingError:
            pass
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, _REFUSALS):
                raise ConfigError(
                    f"cluster.blobs is {self._url!r}, which refuses access: "
                    f"{_said(error.__cause__)}."
                ) from None
            raise

    def _make(self) -> ObjectStore:
        if self._url.startswith("file:"):
            # Durable like the others, which answer after they have written.
            return LocalStore.from_url(self._url, mkdir=True, automatic_cleanup=True)
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        options: Any = {**_TIMEOUTS, "allow_http": plain}
        return from_url(self._url, client_options=options, retry_config=_RETRIES)

    @property
    def _store(self) -> ObjectStore:
        assert self._opened is not None, "the blobs were not opened"  # noqa: S101
        return self._opened

    async def close(self) -> None:
        """Give up the client."""
        self._opened = None

    def local(self, key: str) -> None:
        """Return None: the store is asked for each blob, a local one too."""

    async def put(self, key: str, file: Path) -> None:
        try:
            with _translated(key):
                await obstore.put_async(
                    self._store,
                    check_key(key),
                    file,
                    chunk_size=_PART_BYTES,
                    max_concurrency=_PARTS_AT_ONCE,
                )
        except BlobMissingError as error:
            raise StoreUnavailableError(
                "The server's object store has no such bucket now; try again in 30 s.",
                headers={"Retry-After": "30"},
            ) from error

    async def head(self, key: str) -> BlobInfo:
        with _translated(key):
            return _info(await obstore.head_async(self._store, check_key(key)))

    async def stream(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes | memoryview]:
        """Yield the bytes, each part by a request of its own while the one before is used.

        A single request for all would time out with a slow reader, and after a fault it would begin
        again.
        """
        if stop is None or start >= stop:
            size = (await self.head(key)).size
            stop = size if stop is None else stop
        if start >= stop:
            return
        coming = self._fetch(key, start, stop)
        try:
            while True:
                piece = await coming
                start += len(piece)
                if start == stop:
                    break
                coming = self._fetch(key, start, stop)
                yield piece
            yield piece
        finally:
            coming.cancel()
            await asyncio.wait([coming])
            if not coming.cancelled():
                coming.exception()  # nobody waits for it any more

    def _fetch(self, key: str, start: int, stop: int) -> asyncio.Task[memoryview]:
        part = self._range(key, start, min(stop, start + _PART_BYTES))
        return asyncio.create_task(part, name=f"fetch-{key}")

    async def _range(self, key: str, start: int, stop: int) -> memoryview:
        with _translated(key):
            found = await obstore.get_range_async(
                self._store, check_key(key), start=start, end=stop
            )
        if len(found) != stop - start:
            raise StoreUnavailableError(
                "The server's object store sent a part of a file only; try again in 5 s.",
                headers={"Retry-After": "5"},
            )
        return memoryview(found)

    async def delete(self, key: str) -> None:
        with _translated(key), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, check_key(key))

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        with _translated(prefix):
            async for batch in obstore.list(self._store, prefix=check_key(prefix)):
                for meta in batch:
                    yield _info(meta)


def _info(meta: Any) -> BlobInfo:
    return BlobInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())


_REFUSALS = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)


def _said(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # which `obstore` raises, too
        raise BlobMissingError(f"There is no object {key} in the object store.") from None
    except (exceptions.BaseError, OSError) as error:
        log.warning("the object store fails", extra={"blob": key, "reason": _said(error)})
        if any(words in str(error) for words in _FULL):
            raise NoSpaceError(
                "The object store is full; try again later.", headers={"Retry-After": "60"}
            ) from error
        raise StoreUnavailableError(
            "The server's object store does not answer now; try again in 5 s.",
            headers={"Retry-After": "5"},
        ) from error
