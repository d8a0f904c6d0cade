"""A disk that does not tell upper and lower case apart. It takes root and FUSE."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.parts import missing

_MIB = 512


def _program(name: str) -> str:
    """Return where a program of the package ntfs-3g is."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        missing("ntfs-3g")
    return found


@contextlib.contextmanager
def ntfs_disk(folder: Path) -> Iterator[Path]:
    """Yield a new folder at which an NTFS disk is mounted, as Windows would show it.

    The test is skipped where this user may not mount one.
    """
    image = folder.with_suffix(".ntfs")
    with image.open("wb") as file:
        file.truncate(_MIB << 20)
    subprocess.run(
        [_program("mkntfs"), "--fast", "--force", "--quiet", image], check=True, capture_output=True
    )
    folder.mkdir()
    mount = [_program("lowntfs-3g"), "-o", "ignore_case", str(image), str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk, and only where there is FUSE")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
