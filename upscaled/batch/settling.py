"""Tells when a file is complete: it has not changed for a while, and no process writes to it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from upscaled.batch.ledger import Signature

_EMPTY_SECONDS = 60.0
"""Empty files wait longer: some programs create a file long before they write to it."""


@dataclass(frozen=True)
class _Sight:
    """How a file looked, and since when."""

    signature: Signature
    since: float


class Settling:
    """Watches files over many scans.

    Args:
        seconds: how long a file must not change.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sights: dict[Path, _Sight] = {}

    def look(
        self,
        paths: Iterable[Path],
        now: float,
        wanted: Callable[[Path, Signature], bool] = lambda _path, _signature: True,
    ) -> Iterator[tuple[Path, Signature]]:
        """Yield the files that are complete now; forget those that are gone. Blocking.

        Args:
            paths: all files that are there.
            now: seconds, never going back.
            wanted: tells which of them are to be yielded; the others are not opened.
        """
        before, self._sights = self._sights, {}
        for path in paths:
            try:
                signature = Signature.of(path)
            except OSError:
                continue
            sight = before.get(path)
            if sight is None or sight.signature != signature:
                sight = _Sight(signature, now)
            self._sights[path] = sight
            least = self._seconds if signature.size else max(self._seconds, _EMPTY_SECONDS)
            settled = now - sight.since >= least
            if settled and wanted(path, signature) and not is_being_written(path):
                yield path, signature

    def unchanged_since(self, path: Path) -> float | None:
        """Return since when a file has been unchanged; None: it was not there."""
        sight = self._sights.get(path)
        return None if sight is None else sight.since


def is_being_written(path: Path) -> bool:
    """Tell whether some process has a file open for writing, as far as the system tells.

    It does so for files of the own user on a local disk: a read lease is refused while there is a
    writer (fcntl(2), F_SETLEASE). Ignore SIGIO in a process that calls this, since a writer who
    comes within the call would cause one. Blocking.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # reading it will tell what is wrong
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False
