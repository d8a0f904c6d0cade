"""A small disk, for tests of full ones. It takes root."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A file system in memory of a size that can be changed.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, mib: int) -> None:
        """Mount it, or change its size; the test is skipped where this user may not."""
        options = f"size={mib}m" + (",remount" if self.folder.is_mount() else "")
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")

    def fill(self) -> Path:
        """Fill it to the last byte with a file; return that."""
        file = self.folder / "filler"
        with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        return file


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """Yield a disk of this size, mounted at a new folder."""
    folder.mkdir()
    disk = SmallDisk(folder)
    disk.resize(mib)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
