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

    def mount(self, kib: int) -> None:
        """Mount it; the test is skipped where this user may not."""
        if self._mount(f"size={kib}k").returncode:
            pytest.skip("only root may mount a small disk")

    def resize(self, kib: int) -> None:
        """Change its size.

        Raises:
            CalledProcessError: more is on it.
        """
        self._mount(f"size={kib}k,remount").check_returncode()

    def _mount(self, options: str) -> subprocess.CompletedProcess[bytes]:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False)

    def fill(self, leave: int = 0) -> Path:
        """Fill it with a file, except for ``leave`` bytes; return the file."""
        file = self.folder / "filler"
        with file.open("wb", buffering=0) as filler:
            with contextlib.suppress(OSError):
                while filler.write(bytes(4096)) == 4096:
                    pass
            if leave:
                filler.truncate(max(0, filler.tell() - leave))
        return file


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[SmallDisk]:
    """Yield a disk of this size, mounted at a folder, which is made if there is none."""
    folder.mkdir(exist_ok=True)
    disk = SmallDisk(folder)
    disk.mount(kib)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
