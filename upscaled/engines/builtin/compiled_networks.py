"""Compiled networks on disk, so that the next process need not build and compare them again.

Building x4plus from ncnn's files and comparing its pictures with ncnn's takes longer than a small
picture. A network is kept once it has passed that comparison. So one that is found here needs none.
Files are written whole, carry a checksum, and are named by all that their content depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from upscaled import files

log = logging.getLogger(__name__)

_FORMAT = "1"
"""Increase it when networks are built in another way; older files are then no longer found."""
_HEAD = struct.Struct("<8s32sI")
"""A mark, the SHA-256 of the rest, and the network's margin."""
_MARK = b"upscaled"
_SUFFIX = ".network"
_MOST_BYTES = 512 << 20
"""Bytes of all files; the least recently used are deleted first. x4plus takes 70 MB in 32 bits."""
_LEAST_FREE_BYTES = 256 << 20
"""Free disk space that a kept network must leave, since jobs need it more."""


class CompiledNetworks:
    """Keeps compiled networks in a folder.

    Args:
        folder: made when the first network is kept; None: nothing is kept.
        facts: what every network depends on: the libraries' versions, the processor.
    """

    def __init__(self, folder: Path | None, facts: Sequence[str] = ()) -> None:
        self._folder = folder
        self._facts = tuple(facts)

    def path_of(self, *facts: object) -> Path | None:
        """Return the file for a network with these properties; None: nothing is kept."""
        if self._folder is None:
            return None
        text = "\n".join([_FORMAT, *self._facts, *map(repr, facts)])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{_SUFFIX}"


def read(path: Path | None) -> tuple[bytes, int] | None:
    """Return a network that was kept, and its margin; None if there is none or it is damaged."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    if len(content) < _HEAD.size:
        return None
    mark, digest, margin = _HEAD.unpack_from(content)
    network = content[_HEAD.size :]
    if mark != _MARK or digest != _digest(margin, network):
        return None
    return network, margin


def keep(path: Path | None, network: bytes, margin: int) -> None:
    """Keep a network. Failures are only logged: the next process then builds it again."""
    if path is None:
        return
    content = _HEAD.pack(_MARK, _digest(margin, network), margin) + network
    if len(content) > _MOST_BYTES:
        return
    try:
        files.make_folder(path.parent)
        _make_room(path.parent, len(content))
        if shutil.disk_usage(path.parent).free - len(content) < _LEAST_FREE_BYTES:
            log.info("%s is not written: the disk is almost full.", path)
            return
        files.replace(path, content)
    except OSError as error:
        log.info("%s can't be written: %s.", path, error.strerror)


def drop(path: Path | None) -> None:
    """Delete a network that can't be used."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


def _digest(margin: int, network: bytes) -> bytes:
    hashed = hashlib.sha256(margin.to_bytes(4, "little"))
    hashed.update(network)
    return hashed.digest()


def _make_room(folder: Path, wanted: int) -> None:
    """Delete the files unused for longest until ``wanted`` bytes fit."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may have deleted it
            stat = path.stat()
            found.append((stat.st_mtime_ns, stat.st_size, path))
    total = sum(size for _, size, _ in found) + wanted
    for _, size, path in sorted(found):
        if total <= _MOST_BYTES:
            break
        drop(path)
        total -= size
