"""What is done with files in more than one place: checksums, atomic replacement, syncing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

_C_LIBRARY = ctypes.CDLL(None, use_errno=True)
_Offset = ctypes.c_int64
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""fallocate(2)."""

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function that makes files in a thread, and return what it returns.

    A caller who is cancelled waits for its end: `asyncio.to_thread` would leave the thread at work,
    and it could make a file after the caller has cleaned up.
    """
    import asyncio  # noqa: PLC0415 - the caller has it; worker processes do without

    work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs), name="file-thread")
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody else looks at it
        raise


async def acquired_in_thread(acquire: Callable[[], T], release: Callable[[T], object]) -> T:
    """Run a function that acquires something in a thread, and return what it acquires.

    For a caller who is cancelled meanwhile it is released again, in a thread too.

    Args:
        acquire: opens a file or makes a folder, say.
        release: closes or deletes what ``acquire`` returned.
    """
    import asyncio  # noqa: PLC0415 - likewise

    acquired: list[T] = []

    def work() -> T:
        acquired.append(acquire())
        return acquired[0]

    try:
        return await in_thread(work)
    except asyncio.CancelledError:
        for one in acquired:
            await in_thread(release, one)
        raise


@asynccontextmanager
async def new_folder(prefix: str, parent: Path | None = None) -> AsyncIterator[Path]:
    """Yield a new folder for the block, and delete it afterwards with all that is in it.

    Args:
        prefix: its name begins so.
        parent: the folder it is made in; by default that for temporary files.

    Raises:
        OSError: it can't be made.
    """
    folder = await acquired_in_thread(
        lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=parent)), _delete_folder
    )
    try:
        yield folder
    finally:
        await in_thread(_delete_folder, folder)


def _delete_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


_HELD = re.compile(r"\.upscaled-run-[0-9a-f]{16}")
"""Names of folders of `hold_new_folder`."""


def hold_new_folder(parent: Path) -> tuple[Path, int]:
    """Make a folder that `remove_left_folders` leaves alone while this process lives; blocking.

    Returns:
        The folder, and a descriptor. Closing it gives the folder up.

    Raises:
        OSError: it can't be made.
    """
    while True:
        folder = parent / f".upscaled-run-{secrets.token_hex(8)}"
        folder.mkdir(0o700)
        with contextlib.suppress(FileNotFoundError):  # removed before it was locked
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if hold(descriptor, folder):
                return folder, descriptor
            os.close(descriptor)


def remove_left_folders(parent: Path) -> None:
    """Remove the folders of `hold_new_folder` that killed processes left; blocking.

    As with `remove_parts`, all stay where folders can't be locked.
    """
    for folder in _entries_like(_HELD, parent):
        with contextlib.suppress(OSError):
            descriptor = os.open(
                folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete_folder(folder)
            finally:
                os.close(descriptor)


def _entries_like(pattern: re.Pattern[str], folder: Path) -> list[Path]:
    """Return what is in a folder under such a name; nothing if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return []


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; blocking.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_follow(path: str, flags: int) -> int:
    """Open a file, but not through a symbolic link in its place: an ``opener`` for `open`.

    For files in folders that a confined process can write to.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def can_free(path: Path) -> bool:
    """Tell whether the disk space of parts of a file can be given back; blocking.

    Args:
        path: made if it is not there; it stays as it is otherwise.

    Raises:
        OSError: it can't be written.
    """
    with open(path, "ab", opener=no_follow) as file:
        length = os.fstat(file.fileno()).st_size
    try:
        free(path, length, length + 1)  # beyond its end, where nothing is
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            return False
        raise
    return True


def free(path: Path, start: int, stop: int) -> None:
    """Give the disk space of a part of a file back; it reads as zeros from then on; blocking.

    Raises:
        OSError: the file system can't do that, or the file can't be written.
    """
    with open(path, "r+b", opener=no_follow) as file:
        mode = _KEEP_SIZE | _PUNCH_HOLE
        done = _C_LIBRARY.fallocate64(file.fileno(), mode, _Offset(start), _Offset(stop - start))
        if done:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk (fsync); blocking.

    Raises:
        OSError: the disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(path: Path) -> bool:
    """Take group's and others' permissions away from a file or folder; blocking.

    Returns:
        False if they remain, because another user owns ``path``.

    Raises:
        OSError: ``path`` is not there.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        try:
            path.chmod(mode & 0o700)
        except PermissionError:
            return False
    return True


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make ``folder``, and those above it where they are missing, and sync them; blocking.

    A folder that is there stays as it is. It is synced all the same: the run that made it may have
    ended before it could do so.

    Args:
        folder: its path.
        mode: its permissions, less what the umask takes away.

    Raises:
        OSError: it can't be made.
    """
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user made it
        sync(folder.parent)


_PART = re.compile(r"\.[0-9a-f]{16}[^.]{0,2}\.upscaled-part")
"""Names of files that are to be renamed when they are complete, or with an accented letter those
that try out what a file system makes of it."""


def part_beside(target: Path) -> Path:
    """Return a new name for a file that is to be renamed to ``target`` when it is complete."""
    return target.with_name(f".{secrets.token_hex(8)}.upscaled-part")


def is_part(path: Path) -> bool:
    """Tell whether a name is one of `part_beside`."""
    return _PART.fullmatch(path.name) is not None


def hold(descriptor: int, part: Path) -> bool:
    """Keep other processes from removing a part, or a folder, while it is open; blocking.

    Returns:
        False: it is removed already; begin another one.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another process is about to remove it
        return False
    except OSError:  # a file system without locks, where nothing is removed
        return True
    return part.exists()


def remove_parts(folder: Path) -> None:
    """Remove the parts in ``folder`` that a killed process left; blocking.

    Parts that a process still holds open stay, and so do all other files. Where files can't be
    locked, none is removed, since it is unknown whether one is in use.
    """
    for part in _entries_like(_PART, folder):
        with contextlib.suppress(OSError):
            descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(descriptor)


def _new_part(target: Path) -> tuple[int, Path]:
    while True:
        part = part_beside(target)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if hold(descriptor, part):
            return descriptor, part
        os.close(descriptor)


@contextlib.contextmanager
def replacing(
    target: Path, *, durable: bool = False, mode: int | None = None
) -> Iterator[BinaryIO]:
    """Write a file beside ``target`` and rename it to ``target`` at the end; blocking.

    Readers see the old file or the new one, never a part. When the block raises, the old file
    stays and nothing is left beside it. When the process is killed, a part stays, which
    `remove_parts` removes.

    Args:
        target: created or replaced; its folder must be there.
        durable: the new file survives a power cut once this returns. Without it a power cut may
            leave an empty or a torn file.
        mode: permissions of the new file; None: those that the umask leaves.

    Raises:
        OSError: it can't be written.
    """
    descriptor, part = _new_part(target)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield file
            file.flush()
            if durable:
                os.fsync(descriptor)
            part.replace(target)  # before the lock ends
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(target.parent)


def replace(target: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace the file ``target`` by one with ``content``; see `replacing`."""
    with replacing(target, durable=durable) as file:
        file.write(content)
