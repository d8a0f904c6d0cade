"""Folders in which imports work, beside the models; those of killed imports are deleted."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from upscaled import files

_PREFIX = ".import-"
_YOUNG_SECONDS = 60.0
"""A folder may be made but not locked yet."""


@asynccontextmanager
async def opened(models_dir: Path) -> AsyncIterator[Path]:
    """Yield a new folder for the block; delete what killed imports left.

    A folder in use is locked, so another process sees that it is no leftover.

    Raises:
        OSError: it can't be made.
    """
    await asyncio.to_thread(sweep, models_dir)
    async with files.new_folder(_PREFIX, models_dir) as folder:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(lock)


@contextmanager
def alone(models_dir: Path) -> Iterator[None]:
    """Hold the models folder for the block, so that two imports do not mix their files; blocking.

    Raises:
        OSError: it can't be opened.
    """
    lock = os.open(models_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def sweep(models_dir: Path) -> list[Path]:
    """Delete the folders of imports that ended without doing so; return them; blocking."""
    gone = []
    for folder in models_dir.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or just deleted
            if time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(folder)
            finally:
                os.close(lock)
    return gone
