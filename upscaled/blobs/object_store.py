"""`ObjectStoreBlobs`: blobs in S3 and what speaks it, Google Cloud Storage, Azure or a folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from upscaled.blobs.blobs import CHUNK, BlobInfo, BlobMissingError, check_key
from upscaled.errors import ConfigError, NoSpaceError, StoreUnavailableError

_RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(seconds=30)}
"""How long one request is tried; callers with more time repeat it."""
_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4


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
        options: Any = {"allow_http": True} if plain else {}
        return from_url(self._url, client_options=options, retry_config=_RETRIES)

    @property
    def _store(self) -> ObjectStore:
        assert self._opened is not None, "the blobs were not opened"  # noqa: S101
        return self._opened

    async def close(self) -> None:
        """Give up the client."""
        self._opened = None

    async def put(self, key: str, file: Path) -> None:
        with _translated(key):
            await obstore.put_async(
                self._store,
                check_key(key),
                file,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def head(self, key: str) -> BlobInfo:
        with _translated(key):
            return _info(await obstore.head_async(self._store, check_key(key)))

    async def stream(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes | memoryview]:
        if stop is None:
            stop = (await self.head(key)).size
        if start >= stop:
            await self.head(key)
            return
        with _translated(key):
            found = await obstore.get_async(
                self._store, check_key(key), options={"range": (start, stop)}
            )
            async for piece in found.stream(min_chunk_size=CHUNK):
                yield memoryview(piece)

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
        if "No space left" in str(error) or "QuotaExceeded" in str(error):
            raise NoSpaceError(
                "The object store is full; try again later.", headers={"Retry-After": "60"}
            ) from error
        raise StoreUnavailableError(
            "The server's object store does not answer now; try again in 5 s.",
            headers={"Retry-After": "5"},
        ) from error
