"""The files of jobs: one folder for each job, and the uploads in progress."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from pathlib import Path

from upscaled import files
from upscaled.errors import OUT_OF_SPACE, ConfigError, NoSpaceError, no_room
from upscaled.jobs.job import is_job_id, new_job_id

log = logging.getLogger(__name__)

UPLOAD = "upload"
_BEGUN = "begun"

_LEFTOVERS = 4096
"""Folders that could not be deleted yet. Any beyond this number are deleted at the next start."""


def lock(data_dir: Path) -> int:
    """Lock a data folder against other processes; return the descriptor; closing it unlocks the
    folder.

    Raises:
        BlockingIOError: another process uses it.
        OSError: the folder can't be written to.
    """
    held = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(held)
        raise
    return held


class Workspace:
    """``<data_dir>/jobs/<id>/`` for each job and ``<data_dir>/incoming/`` for uploads.

    Blocking work runs in threads.

    Args:
        data_dir: the folder of all of it.
        keeps_uploads: the upload of a job stays beside its result, and after a failure.
    """

    def __init__(self, data_dir: Path, *, keeps_uploads: bool = False) -> None:
        self.data_dir = data_dir
        self.keeps_uploads = keeps_uploads
        self._jobs = data_dir / "jobs"
        self._incoming = data_dir / "incoming"
        self._lock: int | None = None
        self._leftovers: OrderedDict[str, None] = OrderedDict()
        self.uploads_kept: OrderedDict[str, float] = OrderedDict()
        """Jobs without a result whose upload is kept, and when they ended, oldest first."""
        self.frees_parts = True
        """Whether the disk can free parts of a file, see `files.free`; known after `open`."""
        self.make_room: Callable[[int], Awaitable[object]] | None = None
        """Deletes expendable files of at least the given number of bytes."""

    @property
    def jobs_dir(self) -> Path:
        """The folder with all jobs' folders; exists after `open`."""
        return self._jobs

    @property
    def incoming_dir(self) -> Path:
        """The folder of uploads in progress; exists after `open`."""
        return self._incoming

    async def open(self) -> None:
        """Create the folders, lock them against a second service, empty ``incoming``.

        Raises:
            ConfigError: the folder can't be created or written to, or another service uses it.
        """
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        try:
            files.make_folder(self.data_dir, 0o700)
            files.make_folder(self._jobs, 0o700)
            self._lock = lock(self.data_dir)
            # An existing folder may be readable by other users.
            if not (files.make_private(self.data_dir) & files.make_private(self._jobs)):
                log.warning(
                    "Other users can read storage.data_dir (%s), which another user owns: "
                    "run chmod 700 on it.",
                    self.data_dir,
                )
        except BlockingIOError:
            raise ConfigError(
                f"storage.data_dir is {str(self.data_dir)!r}, which another upscaled process "
                "uses; name a folder of its own."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"storage.data_dir is {str(self.data_dir)!r}; it must be a folder that this user "
                f"can write to ({error.strerror})."
            ) from None
        files.remove_parts(self.data_dir)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        self.frees_parts = _frees_parts(self._incoming)

    def close(self) -> None:
        """Unlock the folder, so that another service can use it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def new_upload(self) -> Path:
        """Return a new path for an upload; nothing is created yet."""
        return self._incoming / secrets.token_hex(16)

    async def discard(self, upload: Path) -> None:
        """Delete an upload that did not become a job."""
        await asyncio.to_thread(upload.unlink, missing_ok=True)

    def folder(self, job_id: str) -> Path:
        """Return the job's folder.

        Raises:
            ValueError: ``job_id`` is not a job id, so it must not become part of a path.
        """
        if not is_job_id(job_id):
            raise ValueError("not a job id")
        return self._jobs / job_id

    @contextlib.asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Path]:
        """Provide a folder like a job's for the block; after a crash the next start deletes it."""
        name = new_job_id()
        folder = self.folder(name)
        try:
            await files.in_thread(folder.mkdir, mode=0o700)
            yield folder
        finally:
            await self.remove(name)

    def upload_of(self, job_id: str) -> Path:
        return self.folder(job_id) / UPLOAD

    async def adopt(self, upload: Path, job_id: str) -> None:
        """Create the job's folder and move the upload into it; `flush` writes it to disk.

        Raises:
            NoSpaceError: the disk is full.
        """
        await self._stored(job_id, lambda: _adopt(upload, self.folder(job_id)))

    async def flush(self, job_id: str) -> None:
        """Flush the job's upload to disk.

        Raises:
            NoSpaceError: the disk is full.
        """
        await self._stored(job_id, lambda: self._flush(self.folder(job_id)))

    async def _stored(self, job_id: str, store: Callable[[], None]) -> None:
        try:
            await files.in_thread(store)
        except OSError as error:
            await self.remove(job_id)
            words = f"The upload can't be stored: {error.strerror}."
            raise NoSpaceError(no_room(error, words)) from error

    def _flush(self, folder: Path) -> None:
        for path in (folder / UPLOAD, folder, self._jobs):
            files.sync(path)

    async def take_upload(self, job_id: str, path: Path) -> None:
        """Bring the upload of a job to ``path`` too.

        Raises:
            FileNotFoundError: it is gone.
        """
        await files.in_thread(os.link, self.upload_of(job_id), path)

    async def flush_folder(self, job_id: str) -> None:
        """Bring the names in a job's folder to the disk.

        Raises:
            OSError: the disk is full or broken.
        """
        await asyncio.to_thread(files.sync, self.folder(job_id))
        await asyncio.to_thread(files.sync, self._jobs)

    async def remove(self, job_id: str) -> None:
        """Delete the job's folder with its content; never raises.

        Files that can't be deleted, for example for lack of descriptors, are left to
        `remove_leftovers`.
        """
        self.uploads_kept.pop(job_id, None)
        if not await asyncio.to_thread(_removed, self.folder(job_id)):
            self._leftovers[job_id] = None
            if len(self._leftovers) > _LEFTOVERS:
                self._leftovers.popitem(last=False)

    async def remove_work(self, job_id: str, ended: float) -> None:
        """Delete the files of a job that has no result; its upload only if none are kept.

        Args:
            job_id: the job.
            ended: when it ended, in seconds since the epoch.
        """
        if self.keeps_uploads and await self.keep_only(job_id, UPLOAD):
            self.uploads_kept[job_id] = ended
        else:
            await self.remove(job_id)

    async def remove_leftovers(self) -> None:
        """Try again to delete folders that could not be deleted."""
        for job_id in list(self._leftovers):
            if await asyncio.to_thread(_removed, self.folder(job_id)):
                self._leftovers.pop(job_id, None)

    async def hand_on(self, job_id: str, heir: str) -> None:
        """Move what has been done of a job into the folder of another one with the same upload.

        Files that can't be moved are left behind: the other job does that work again.
        """
        await asyncio.to_thread(_hand_on, self.folder(job_id), self.folder(heir))

    async def keep_only(self, job_id: str, name: str) -> bool:
        """Delete everything in the job's folder except the file ``name``; tell if it exists."""
        return await asyncio.to_thread(self._keep, self.folder(job_id), {name}, name)

    def _keep(self, folder: Path, kept: Collection[str], name: str) -> bool:
        if not folder.is_dir():
            return False
        _delete(path for path in folder.iterdir() if path.name not in kept)
        return (folder / name).is_file()

    async def keep_result(self, job_id: str, name: str) -> bool:
        """Delete everything in a job's folder but its result ``name``, and its upload if those are
        kept; tell if the result exists.
        """
        kept = {name, UPLOAD} if self.keeps_uploads else {name}
        return await asyncio.to_thread(self._keep, self.folder(job_id), kept, name)

    async def with_uploads(self, known: Collection[str]) -> list[str]:
        """Return the jobs that are not ``known`` and have an upload."""
        return await asyncio.to_thread(self._with_uploads, frozenset(known))

    def _with_uploads(self, known: frozenset[str]) -> list[str]:
        return [
            path.name
            for path in self._jobs.iterdir()
            if path.name not in known and is_job_id(path.name) and (path / UPLOAD).is_file()
        ]

    async def begin(self, job_id: str) -> None:
        """Create a marker in the job's folder: its upload is being decoded.

        Raises:
            NoSpaceError: the disk is full.
        """
        try:
            await files.in_thread((self.folder(job_id) / _BEGUN).touch)
        except OSError as error:
            words = f"The job's folder can't be written: {error.strerror}."
            raise NoSpaceError(no_room(error, words)) from error

    async def end(self, job_id: str) -> None:
        """Delete the marker."""
        await asyncio.to_thread((self.folder(job_id) / _BEGUN).unlink, missing_ok=True)

    async def is_begun(self, job_id: str) -> bool:
        """Tell whether the marker exists, left by a server that died."""
        return await asyncio.to_thread((self.folder(job_id) / _BEGUN).exists)

    async def sweep(self, known: Collection[str]) -> int:
        """Delete the folders of all jobs that are not ``known``; return how many there were."""
        return await asyncio.to_thread(self._sweep, frozenset(known))

    def _sweep(self, known: frozenset[str]) -> int:
        orphans = [path for path in self._jobs.iterdir() if path.name not in known]
        _delete(orphans)
        return len(orphans)

    async def free_bytes(self, wanted: int = 0) -> int:
        """Return how many bytes are free for us on the data folder's disk.

        If that is less than ``wanted``, `make_room` is called first.
        """
        free = await asyncio.to_thread(self._free_bytes)
        if free < wanted and self.make_room is not None:
            await self.make_room(wanted - free)
            free = await asyncio.to_thread(self._free_bytes)
        return free

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.data_dir).free


def _adopt(upload: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    upload.rename(folder / UPLOAD)


def _hand_on(folder: Path, heir: Path) -> None:
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name not in {UPLOAD, _BEGUN}:
                path.rename(heir / path.name)


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("%s can't be deleted yet", folder)
        return False
    return True


def _delete(paths: Iterable[Path]) -> None:
    """Delete files and folders; log those that can't be deleted, which the next start retries."""
    for path in list(paths):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be deleted: %s", path, error.strerror)


def _frees_parts(folder: Path) -> bool:
    probe = folder / secrets.token_hex(16)
    try:
        return files.can_free(probe)
    except OSError:  # of a full disk, say; each job's own file is tried too
        return True
    finally:
        probe.unlink(missing_ok=True)


async def claim(
    path: Path, length: int, *, keep: bool, room: tuple[int, int] | None = None
) -> None:
    """Create a file of ``length`` bytes and reserve its disk space.

    Args:
        path: the file.
        length: in bytes.
        keep: keep the existing content; otherwise the file is all zeros.
        room: offset and number of the bytes whose space is reserved; None: all.

    Raises:
        NoSpaceError: there is not enough disk space.
    """
    await files.in_thread(_claim, path, length, keep, room or (0, length))


def _claim(path: Path, length: int, keep: bool, room: tuple[int, int]) -> None:
    with open(path, "ab" if keep else "wb", opener=files.no_follow) as file:
        try:
            file.truncate(length)
            # Reserved now: a disk that fills up later would end the work in the middle.
            if room[1]:
                os.posix_fallocate(file.fileno(), *room)
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                words = f"The server's disk has no room for the {room[1] >> 20} MiB of this job's "
                raise NoSpaceError(no_room(error, words + "pixels.")) from error
            # Else this file system can't reserve space. EBADF: there, the C library would read
            # the file, which is open for writing only.
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}:
                raise
