"""Where a run keeps its service's data: beside the results, but not on a network disk."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs",
     "davfs", "fuse.sshfs", "fuse.rclone", "fuse.davfs2", "fuse.glusterfs", "fuse.s3fs",
     "fuse.cephfs", "virtiofs"}
)  # fmt: skip
"""File systems on which SQLite's journal is not safe: locks or shared memory are missing."""
_ESCAPE = re.compile(r"\\([0-7]{3})")
"""Blanks and backslashes in mountinfo."""
_MOUNTS = Path("/proc/self/mountinfo")


def work_folder(out: Path, nearby: Path) -> Path:
    """Return the folder for a run's data; blocking.

    Args:
        out: the folder of the results.
        nearby: the folder if ``out`` is on a local disk; else it is in the user's cache.
    """
    place = out.resolve()
    if file_system_of(place) not in _NETWORK:
        return nearby
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
    return Path(cache) / "upscaled" / name


def file_system_of(place: Path) -> str:
    """Return the type of the file system of a path, empty if it is not known; blocking."""
    return file_system(place.resolve(), _mounts())


def file_system(place: Path, mountinfo: str) -> str:
    """Return the type of the file system of a path, empty if it is not known (proc(5))."""
    best, found = -1, ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        columns = before.split(" ")
        if len(columns) < 5 or not after:
            continue
        point = _ESCAPE.sub(lambda digits: chr(int(digits[1], 8)), columns[4])
        root = "/" if point == "/" else f"{point}/"
        if f"{place}/".startswith(root) and len(point) >= best:
            best, found = len(point), after.split(" ")[0]
    return found


def _mounts() -> str:
    try:
        return _MOUNTS.read_text("utf-8", "replace")
    except OSError:
        return ""
