"""`FolderBlobs`: blobs as files of a folder, on one machine or on a file system that all mount."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from io import FileIO
from pathlib import Path

from upscaled import files
from upscaled.blobs.blobs import CHUNK, BlobInfo, BlobMissingError, check_key
from upscaled.errors import OUT_OF_SPACE, ConfigError, NoSpaceError, StoreUnavailableError

_PARTS = ".parts"
"""Folder of blobs that are being written; no key begins with a dot."""


class FolderBlobs:
    """Blobs as files below a folder, each written under another name, flushed, and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self) -> None:
        """Create the folder if it is not there."""
        try:
            await asyncio.to_thread(files.make_folder, self.folder / _PARTS, 0o700)
        except OSError as error:
            raise ConfigError(
                f"cluster.blobs is {str(self.folder)!r}, which can't be used: {error.strerror}."
            ) from None

    async def close(self) -> None:
        """Do nothing: no file is held."""

    def local(self, key: str) -> Path:
        return self.path(key)

    async def put(self, key: str, file: Path) -> None:
        path = self.path(key)
        try:
            with _translated(key):
                await asyncio.to_thread(self._put, path, file)
        except BlobMissingError as error:
            raise StoreUnavailableError(
                "The shared folder is not there now; it may not be mounted. Try again in 30 s.",
                headers={"Retry-After": "30"},
            ) from error

    def _put(self, path: Path, file: Path) -> None:
        part = self.folder / _PARTS / secrets.token_hex(16)
        try:
            shutil.copyfile(file, part)
            files.sync(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for folder in (path.parent, *path.parent.parents):
            files.sync(folder)
            if folder == self.folder:
                break

    async def head(self, key: str) -> BlobInfo:
        with _translated(key):
            facts = await asyncio.to_thread(self.path(key).stat)
        return BlobInfo(key, facts.st_size, facts.st_mtime)

    async def stream(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes | memoryview]:
        with _translated(key):
            file = await asyncio.to_thread(FileIO, self.path(key))
        try:
            while stop is None or start < stop:
                count = CHUNK if stop is None else min(CHUNK, stop - start)
                with _translated(key):
                    piece = await asyncio.to_thread(os.pread, file.fileno(), count, start)
                if not piece:
                    return
                start += len(piece)
                yield piece
        finally:
            await asyncio.to_thread(file.close)

    async def delete(self, key: str) -> None:
        with _translated(key):
            await asyncio.to_thread(self._delete, self.path(key))

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        for folder in path.parents:
            # One with other blobs in it, or into which one is being put, stays.
            if self.folder in {folder.parent, folder}:
                break
            with contextlib.suppress(OSError):
                folder.rmdir()

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        with _translated(prefix):
            found = await asyncio.to_thread(lambda: list(self._list(self.path(prefix))))
        for info in found:
            yield info

    def _list(self, root: Path) -> Iterator[BlobInfo]:
        for folder, _, names in os.walk(root):
            for name in sorted(names):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    facts = path.stat()
                    key = path.relative_to(self.folder).as_posix()
                    yield BlobInfo(key, facts.st_size, facts.st_mtime)

    def path(self, key: str) -> Path:
        """Return the file of a blob, whether there is one or not.

        Raises:
            ValueError: ``key`` is none.
        """
        return self.folder / check_key(key)


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise BlobMissingError(f"There is no file {key} in the shared folder.") from None
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise NoSpaceError(
                f"The shared folder is full ({error.strerror}); try again later.",
                headers={"Retry-After": "60"},
            ) from error
        raise StoreUnavailableError(
            f"The shared folder can't be used now ({error.strerror}); try again in 5 s.",
            headers={"Retry-After": "5"},
        ) from error
