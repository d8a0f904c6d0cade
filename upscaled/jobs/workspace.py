"""The files of jobs: one folder per job, uploads on their way in beside them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from upscaled import files
from upscaled.errors import OUT_OF_SPACE, ConfigError, NoSpaceError
from upscaled.jobs.job import is_job_id

log = logging.getLogger(__name__)

UPLOAD = "upload"
_BEGUN = "begun"

_LEFTOVERS = 4096
"""Folders that could not be deleted yet. Those beyond are deleted at the next start."""


class Workspace:
    """``<data_dir>/jobs/<id>/`` for each job and ``<data_dir>/incoming/`` for uploads.

    Blocking work is done in threads.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._jobs = data_dir / "jobs"
        self._incoming = data_dir / "incoming"
        self._lock: int | None = None
        self._leftovers: OrderedDict[str, None] = OrderedDict()

    @property
    def jobs_dir(self) -> Path:
        """The folder that holds all jobs' folders; there once this was opened."""
        return self._jobs

    @property
    def incoming_dir(self) -> Path:
        """The folder of uploads on their way in; there once this was opened."""
        return self._incoming

    async def open(self) -> None:
        """Make the folders, lock them against a second service, empty ``incoming``.

        Raises:
            ConfigError: the folder can't be made or written to, or another service uses it.
        """
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        try:
            files.make_folder(self.data_dir, 0o700)
            files.make_folder(self._jobs, 0o700)
            self._lock = os.open(
                self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A folder that was there before may be open to others.
            if not (files.make_private(self.data_dir) & files.make_private(self._jobs)):
                log.warning(
                    "Other users can read storage.data_dir (%s), which another user owns: "
                    "run chmod 700 on it.",
                    self.data_dir,
                )
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"storage.data_dir is {str(self.data_dir)!r}, which another running upscaled "
                "uses; allowed is a folder of its own."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"storage.data_dir is {str(self.data_dir)!r}; allowed is a folder this user can "
                f"write to ({error.strerror})."
            ) from None
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Let go of the folder, so that another service may use it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def new_upload(self) -> Path:
        """Return a fresh path to stream an upload to; nothing is made yet."""
        return self._incoming / secrets.token_hex(16)

    async def discard(self, upload: Path) -> None:
        """Delete an upload that became no job."""
        await asyncio.to_thread(upload.unlink, missing_ok=True)

    def folder(self, job_id: str) -> Path:
        """Return the job's folder.

        Raises:
            ValueError: ``job_id`` is none; it must never become part of a path then.
        """
        if not is_job_id(job_id):
            raise ValueError("not a job id")
        return self._jobs / job_id

    def upload_of(self, job_id: str) -> Path:
        """Return where the job's upload lies."""
        return self.folder(job_id) / UPLOAD

    async def adopt(self, upload: Path, job_id: str) -> None:
        """Make the job's folder and move the upload into it; `flush` brings it to the disk.

        Raises:
            NoSpaceError: the disk is full.
        """
        await self._stored(job_id, lambda: _adopt(upload, self.folder(job_id)))

    async def flush(self, job_id: str) -> None:
        """Bring the job's upload to the disk.

        Raises:
            NoSpaceError: the disk is full.
        """
        await self._stored(job_id, lambda: self._flush(self.folder(job_id)))

    async def _stored(self, job_id: str, store: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(store)
        except OSError as error:
            await self.remove(job_id)
            raise NoSpaceError(f"The upload can't be stored: {error.strerror}.") from error

    def _flush(self, folder: Path) -> None:
        for path in (folder / UPLOAD, folder, self._jobs):
            files.sync(path)

    async def remove(self, job_id: str) -> None:
        """Delete the job's folder with all that is in it; never raises.

        What resists, for lack of descriptors for instance, is deleted by `remove_leftovers`.
        """
        if not await asyncio.to_thread(_removed, self.folder(job_id)):
            self._leftovers[job_id] = None
            if len(self._leftovers) > _LEFTOVERS:
                self._leftovers.popitem(last=False)

    async def remove_leftovers(self) -> None:
        """Try again to delete folders that could not be deleted."""
        for job_id in list(self._leftovers):
            if await asyncio.to_thread(_removed, self.folder(job_id)):
                self._leftovers.pop(job_id, None)

    async def keep_only(self, job_id: str, name: str) -> bool:
        """Delete everything in the job's folder but the file ``name``; tell if that is there."""
        return await asyncio.to_thread(self._keep_only, self.folder(job_id), name)

    def _keep_only(self, folder: Path, name: str) -> bool:
        if not folder.is_dir():
            return False
        _delete(path for path in folder.iterdir() if path.name != name)
        return (folder / name).is_file()

    async def begin(self, job_id: str) -> None:
        """Note in the job's folder that its upload is being decoded.

        Raises:
            NoSpaceError: the disk is full.
        """
        try:
            await asyncio.to_thread((self.folder(job_id) / _BEGUN).touch)
        except OSError as error:
            raise NoSpaceError(f"The job's folder can't be written: {error.strerror}.") from error

    async def end(self, job_id: str) -> None:
        """Take the note away."""
        await asyncio.to_thread((self.folder(job_id) / _BEGUN).unlink, missing_ok=True)

    async def is_begun(self, job_id: str) -> bool:
        """Tell whether the note is there, left by a server that died."""
        return await asyncio.to_thread((self.folder(job_id) / _BEGUN).exists)

    async def sweep(self, known: Collection[str]) -> int:
        """Delete the folders of all jobs that are not ``known``; return how many there were."""
        return await asyncio.to_thread(self._sweep, frozenset(known))

    def _sweep(self, known: frozenset[str]) -> int:
        orphans = [path for path in self._jobs.iterdir() if path.name not in known]
        _delete(orphans)
        return len(orphans)

    async def free_bytes(self) -> int:
        """Return how many bytes the disk under the data folder has left for us."""
        usage = await asyncio.to_thread(shutil.disk_usage, self.data_dir)
        return usage.free


def _adopt(upload: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    upload.rename(folder / UPLOAD)


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("%s can't be deleted yet", folder)
        return False
    return True


def _delete(paths: Iterable[Path]) -> None:
    """Delete files and folders; what resists is logged, and swept at the next start."""
    for path in list(paths):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be deleted: %s", path, error.strerror)


async def claim(path: Path, length: int, *, keep: bool) -> None:
    """Make a file of ``length`` bytes, all of them room that the disk has for it.

    Args:
        path: the file.
        length: in bytes.
        keep: what is there of it stays; else it is zeros.

    Raises:
        NoSpaceError: the disk has not the room.
    """
    await asyncio.to_thread(_claim, path, length, keep)


def _claim(path: Path, length: int, keep: bool) -> None:
    with open(path, "ab" if keep else "wb", opener=files.no_follow) as file:
        file.truncate(length)
        try:
            # Claimed now: a disk that fills up later would end the work in its middle.
            os.posix_fallocate(file.fileno(), 0, length)
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise NoSpaceError(
                    f"The server's disk has no room for the {length >> 20} MiB of this job's "
                    "pixels."
                ) from error
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise  # else this file system can't claim
