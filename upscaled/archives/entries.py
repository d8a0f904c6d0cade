"""`Entry`, and the checks of an archive's bounds and names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from upscaled.archives.errors import ArchiveTooLargeError, UnusableArchiveError

_NAME_BYTES = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_EAST_ASIAN = ("cp932", "gbk", "big5")
"""Encodings in which 0x5C, the backslash, is the second byte of common letters."""
_SHOWN = 80
_RATIO_BYTES = 256 << 20
"""Archives that unpack to less may have any ratio: empty pages pack well."""


@dataclass(frozen=True)
class Entry:
    """A file or a folder in an archive."""

    number: int
    """Its place in the archive, from 0."""
    name: str
    """Its path, with ``/``."""
    size: int
    """Bytes when unpacked, as the archive says; no more than that is ever read."""
    is_folder: bool = False
    is_raw: bool = False
    """The name's encoding is not known; it is read as code page 437, a letter for each byte."""


@dataclass(frozen=True)
class Bounds:
    """How much an archive may hold."""

    entries: int
    entry_bytes: int
    total_bytes: int
    ratio: int
    """Unpacked bytes for each byte of the archive, above `_RATIO_BYTES`."""


def shown(name: str) -> str:
    """Return an entry's name as a sentence shows it."""
    text = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return repr(text)


def check_count(count: int, bounds: Bounds) -> None:
    """Check the number of entries.

    Raises:
        ArchiveTooLargeError: there are too many.
    """
    if count > bounds.entries:
        raise ArchiveTooLargeError(
            f"The archive has more than {bounds.entries} entries, the most that are accepted; "
            "split it."
        )


def check_unpacked(total: int, packed: int, bounds: Bounds) -> None:
    """Check what an archive unpacks to.

    Raises:
        ArchiveTooLargeError: it is too much.
    """
    if total > bounds.total_bytes:
        raise ArchiveTooLargeError(
            f"The archive unpacks to more than {bounds.total_bytes >> 20} MiB, the most that is "
            "accepted; split it."
        )
    if total > max(_RATIO_BYTES, packed * bounds.ratio):
        raise ArchiveTooLargeError(
            f"The archive unpacks to {total // max(1, packed)} times its size; up to "
            f"{bounds.ratio} times are allowed."
        )


def check(entries: Sequence[Entry], packed: int, bounds: Bounds) -> None:
    """Check names and sizes of all entries.

    Args:
        entries: in the archive's order.
        packed: size of the archive in bytes.
        bounds: see there.

    Raises:
        UnusableArchiveError: a name is dangerous or ambiguous.
        ArchiveTooLargeError: a bound is exceeded.
    """
    check_count(len(entries), bounds)
    total = 0
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        check_name(entry.name, is_raw=entry.is_raw)
        if entry.size > bounds.entry_bytes:
            raise ArchiveTooLargeError(
                f"The entry {shown(entry.name)} has {entry.size >> 20} MiB when it is unpacked; "
                f"up to {bounds.entry_bytes >> 20} MiB are allowed."
            )
        total += entry.size
        check_unpacked(total, packed, bounds)
        path = entry.name.rstrip("/")
        if path in files or (path in folders and not entry.is_folder):
            raise UnusableArchiveError(
                f"The archive has the name {shown(path)} twice; rename one of the two."
            )
        (folders if entry.is_folder else files).add(path)
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    if both := files & folders:
        raise UnusableArchiveError(
            f"In the archive {shown(min(both))} is a file and a folder; rename one of the two."
        )


def check_name(name: str, *, is_raw: bool = False) -> None:
    """Check that a name stays below the folder that an archive is unpacked to.

    Args:
        name: as in `Entry`.
        is_raw: as in `Entry`.

    Raises:
        UnusableArchiveError: it does not, or it means different things to different programs.
    """
    if fault := _fault_of(name, is_raw=is_raw):
        raise UnusableArchiveError(f"The archive has an entry named {shown(name)}, {fault}.")


def _fault_of(name: str, *, is_raw: bool) -> str | None:
    if not name.strip("/"):
        return "which is empty"
    if len(name.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
        return f"which is longer than {_NAME_BYTES} bytes"
    if _CONTROL.search(name):
        return "which has control characters"
    if "\\" in name and not (is_raw and _is_in_letters(name)):
        return "which has a backslash; use / between folders"
    return _way_out(name)


def _is_in_letters(name: str) -> bool:
    """Tell whether each backslash of a raw name may be the second byte of an East Asian letter.

    Then it follows a byte above 127 and not a dot, so it leads out of no folder in any encoding.
    """
    for encoding in _EAST_ASIAN:
        try:
            if "\\" not in name.encode("cp437").decode(encoding):
                return True
        except UnicodeError:
            continue
    return False


def _way_out(name: str) -> str | None:
    if name.startswith("/") or _DRIVE.match(name):
        return "which is an absolute path"
    if any(part in {"..", "."} for part in name.split("/")) or "//" in name:
        return "which leads out of its folder or is not in its shortest form"
    return None
