"""ViewCache: thumbnails and tiles of pictures, made once and kept on disk within a bound."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import shutil
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path

from upscaled import files
from upscaled.errors import (
    NoSpaceError,
    NoViewError,
    TooManyRequestsError,
    UpscaledError,
    ViewPendingError,
    mib_above,
)
from upscaled.imaging import Imaging, TileFileError, levels_of, read_tile, tile_count
from upscaled.jobs.workspace import Workspace
from upscaled.pictures import Size

log = logging.getLogger(__name__)

_VERSION = 1
"""Version of the kept files; a new one makes all views anew."""
_PENDING = 64
"""Views that may be waited for altogether, …"""
_PENDING_PER_CALLER = 24
"""… and by one caller."""
_ANSWER_SECONDS = 1.5
"""How long an answer waits for a view: browsers have six connections for everything."""
_THUMBNAIL_SECONDS = 20.0
_FAILURE_SECONDS = 60.0
"""Seconds for which a picture whose view failed is not decoded again."""
_FAILURES = 256
_THUMBNAIL_BYTES = 1 << 20
_RESERVE_BYTES = 256 << 20
"""Disk space that views leave free."""
_BYTES_PER_PIXEL = 6
"""Most that tiles of all levels take: four for level 0 (incompressible), a third of that for the
others, and their overhead."""


@dataclass(frozen=True)
class ViewedPicture:
    """A picture of a job."""

    path: Path
    digest: str
    """Identifies its content."""
    size: Size
    owner: str
    """Whose it is. Nothing is shared between owners."""

    @property
    def key(self) -> str:
        """Names its files."""
        text = f"{_VERSION}\0{self.owner}\0{self.digest}\0{self.size}"
        return hashlib.sha256(text.encode()).hexdigest()[:40]


class ViewCache:
    """Makes views in confined processes, and keeps them within ``most_bytes``.

    Args:
        imaging: decodes the pictures. Its processes are not those of jobs.
        workspace: tells how much disk is free.
        folder: where views are kept.
        most_bytes: of all views.
    """

    def __init__(
        self, imaging: Imaging, workspace: Workspace, folder: Path, most_bytes: int
    ) -> None:
        self._imaging = imaging
        self._workspace = workspace
        self._folder = folder
        self._most = most_bytes
        self._kept: OrderedDict[str, int] = OrderedDict()
        """Bytes by file name; the view used last is the last one."""
        self._making: dict[str, asyncio.Task[None]] = {}
        self._callers: Counter[str] = Counter()
        self._failed: OrderedDict[str, tuple[float, UpscaledError]] = OrderedDict()
        self._one_pyramid = asyncio.Semaphore(1)

    async def open(self) -> None:
        """Find the views of an earlier run.

        Raises:
            OSError: the folder can't be made or read.
        """
        self._kept = OrderedDict(await asyncio.to_thread(_found, self._folder))
        await self._shrink(0)

    async def close(self) -> None:
        """Stop making views."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def thumbnail(self, picture: ViewedPicture, caller: str) -> bytes:
        """Return a small WebP of a picture.

        Raises:
            NoViewError: the picture can't be decoded.
            ViewPendingError: it is not made yet.
        """
        name = f"{picture.key}.webp"
        await self._ready(name, picture, caller, _THUMBNAIL_SECONDS)
        try:
            return await asyncio.to_thread(_read, self._folder / name, _THUMBNAIL_BYTES)
        except FileNotFoundError:
            raise self._lost(name) from None

    async def tile(
        self, picture: ViewedPicture, level: int, column: int, row: int, caller: str
    ) -> tuple[bytes, str]:
        """Return a tile and its media type.

        Raises:
            NoViewError: there is no such tile, or the picture can't be decoded.
            ViewPendingError: the tiles are not made yet.
            NoSpaceError: the disk has no room for them.
        """
        levels = levels_of(picture.size)
        if level >= len(levels) or column >= levels[level].columns or row >= levels[level].rows:
            raise NoViewError("There is no such tile; /tiles/{job_id} tells which there are.")
        name = f"{picture.key}.tiles"
        await self._ready(name, picture, caller, _ANSWER_SECONDS)
        number = levels[level].first + row * levels[level].columns + column
        try:
            return await asyncio.to_thread(
                read_tile, self._folder / name, number, tile_count(picture.size)
            )
        except FileNotFoundError:
            raise self._lost(name) from None
        except TileFileError as error:
            log.error("tiles are damaged", extra={"file": name, "reason": str(error)})
            await self._delete(name)
            raise _pending("The tiles have to be made again", 1) from None

    def _lost(self, name: str) -> ViewPendingError:
        self._kept.pop(name, None)
        return _pending("The view was deleted to make room, and has to be made again", 1)

    async def _ready(self, name: str, picture: ViewedPicture, caller: str, seconds: float) -> None:
        """Return once a view exists; make it if it is not being made."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return
        self._check_failure(name)
        task = self._making.get(name)
        if task is None:
            task = self._begin(name, picture, caller)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise _pending("The picture is being prepared for viewing", 1)
        self._check_failure(name)
        if name not in self._kept:  # the server is stopping
            raise _pending("The picture could not be prepared for viewing", 5)

    def _check_failure(self, name: str) -> None:
        when, error = self._failed.get(name, (0.0, None))
        if error is None:
            return
        if time.monotonic() - when > _FAILURE_SECONDS:
            del self._failed[name]
            return
        raise error

    def _begin(self, name: str, picture: ViewedPicture, caller: str) -> asyncio.Task[None]:
        if len(self._making) >= _PENDING or self._callers[caller] >= _PENDING_PER_CALLER:
            raise TooManyRequestsError(
                "Too many pictures are being prepared for viewing; try again in 2 s.",
                headers={"Retry-After": "2"},
            )
        self._callers[caller] += 1
        task = asyncio.create_task(self._make(name, picture, caller), name=f"view-{name[:8]}")
        self._making[name] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._making[name]
            self._callers[caller] -= 1
            self._callers += Counter()  # removes the zeros

        task.add_done_callback(ended)
        return task

    async def _make(self, name: str, picture: ViewedPicture, caller: str) -> None:
        began = time.monotonic()
        try:
            if name.endswith(".tiles"):
                async with self._one_pyramid:
                    length = await self._made(name, picture, caller, tiles=True)
            else:
                length = await self._made(name, picture, caller, tiles=False)
        except UpscaledError as error:
            self._remember_failure(name, _told(error))
        except OSError as error:
            sentence = f"The picture can't be prepared for viewing: {error.strerror}."
            self._remember_failure(name, _pending_error(sentence, 5))
        else:
            self._kept[name] = length
            await self._shrink(0)
            seconds = round(time.monotonic() - began, 2)
            log.info("view made", extra={"file": name, "bytes": length, "seconds": seconds})

    def _remember_failure(self, name: str, error: UpscaledError) -> None:
        log.warning("view can't be made", extra={"file": name, "reason": error.message})
        # Temporary failures are retried sooner.
        early = 0.0 if error.status == NoViewError.status else _FAILURE_SECONDS - 5
        self._failed[name] = (time.monotonic() - early, error)
        if len(self._failed) > _FAILURES:
            self._failed.popitem(last=False)

    async def _made(self, name: str, picture: ViewedPicture, caller: str, *, tiles: bool) -> int:
        """Make a view's file; return its length."""
        most = _THUMBNAIL_BYTES
        if tiles:
            most = min(self._most, _BYTES_PER_PIXEL * picture.size.pixels + _THUMBNAIL_BYTES)
            if await self._workspace.free_bytes(most + _RESERVE_BYTES) < most + _RESERVE_BYTES:
                raise NoSpaceError(
                    f"The tiles may take {mib_above(most)} MiB on the server's disk, which are not "
                    "free; make room in storage.data_dir."
                )
        workdir = self._folder / f"work-{secrets.token_hex(8)}"
        try:
            await files.in_thread(workdir.mkdir, mode=0o700)
            made = await self._imaging.view(
                picture.path, workdir, picture.size, tiles=tiles, most_bytes=most, caller=caller
            )
            return await files.in_thread(_moved, made, self._folder / name)
        finally:
            await asyncio.to_thread(shutil.rmtree, workdir, ignore_errors=True)

    async def forget(self, *pictures: ViewedPicture) -> None:
        """Delete the views of pictures that are gone."""
        for picture in pictures:
            for name in (f"{picture.key}.webp", f"{picture.key}.tiles"):
                task = self._making.get(name)
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
                self._failed.pop(name, None)
                if name in self._kept or task is not None:
                    await self._delete(name)

    async def free(self) -> bool:
        """Delete the least recently used view; False if there is none."""
        if not self._kept:
            return False
        await self._delete(next(iter(self._kept)))
        return True

    async def _shrink(self, extra: int) -> None:
        while self._kept and sum(self._kept.values()) + extra > self._most:
            await self.free()

    async def _delete(self, name: str) -> None:
        self._kept.pop(name, None)
        try:
            await asyncio.to_thread((self._folder / name).unlink, missing_ok=True)
        except OSError as error:  # the next start finds it again
            log.warning("view can't be deleted", extra={"file": name, "reason": error.strerror})


def _told(error: UpscaledError) -> UpscaledError:
    """Return what the caller is told of a failure."""
    if error.status in {415, 422}:
        return NoViewError(f"The picture can't be shown: {error.message}")
    if isinstance(error, NoSpaceError):
        return error
    return _pending_error(error.message, 5)


def _pending(what: str, seconds: int) -> ViewPendingError:
    return _pending_error(f"{what}; ask again in {seconds} s.", seconds)


def _pending_error(sentence: str, seconds: int) -> ViewPendingError:
    return ViewPendingError(sentence, headers={"Retry-After": str(seconds)})


def _found(folder: Path) -> list[tuple[str, int]]:
    """Return the views of an earlier run, oldest first; delete what is left of unfinished ones."""
    files.make_folder(folder, 0o700)
    found = []
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix in {".webp", ".tiles"}:
            facts = path.lstat()
            found.append((facts.st_mtime, path.name, facts.st_size))
    return [(name, length) for _, name, length in sorted(found)]


def _moved(made: Path, path: Path) -> int:
    length = made.lstat().st_size
    made.rename(path)
    return length


def _read(path: Path, most: int) -> bytes:
    with open(path, "rb", opener=files.no_follow) as file:
        return file.read(most)
