"""Finds the pictures of a run: files, folders and globs become items with a name for the result."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from upscaled.formats import SUFFIXES


@dataclass(frozen=True)
class Item:
    """One picture."""

    source: Path
    name: PurePath
    """Its path below its input; the result gets this path below the output folder."""


@dataclass(frozen=True)
class Unreadable:
    """An input that can't be read; ``reason`` is a sentence."""

    source: Path
    reason: str


@dataclass(frozen=True)
class Selection:
    """Which files of a folder are taken.

    Patterns are those of a shell (``*``, ``?``, ``[…]``), compared without regard to case with a
    file's name and with its path below the input.
    """

    recursive: bool = False
    include: tuple[str, ...] = ()
    """Any of these; empty: names that end as those of picture files do."""
    exclude: tuple[str, ...] = ()
    """None of these; folders that match are not entered."""

    def takes(self, name: PurePath) -> bool:
        """Tell whether a file of a folder is taken."""
        if _matches(name, self.exclude):
            return False
        if self.include:
            return _matches(name, self.include)
        return not name.name.startswith(".") and name.suffix.lower() in SUFFIXES

    def enters(self, name: PurePath) -> bool:
        """Tell whether a folder below an input is entered."""
        return self.recursive and not name.name.startswith(".") and not _matches(name, self.exclude)


def _matches(name: PurePath, patterns: Iterable[str]) -> bool:
    texts = (name.as_posix().lower(), name.name.lower())
    return any(fnmatch.fnmatchcase(text, pattern.lower()) for pattern in patterns for text in texts)


def find(
    inputs: Sequence[str], selection: Selection, *, leave_out: Sequence[Path] = ()
) -> Iterator[Item | Unreadable]:
    """Yield the pictures of ``inputs``, each input's sorted by name; blocking.

    A file that is named is taken whatever it is called. What a glob finds is named from the last
    folder before its first wildcard. Links to files are followed, those to folders are not, so
    that no walk turns in circles.

    Args:
        inputs: files, folders and globs.
        selection: which files of folders are taken.
        leave_out: folders that are not entered, such as the output.
    """
    left_out = {_identity(folder) for folder in leave_out} - {None}
    for text in inputs:
        path = Path(text)
        if os.path.lexists(path) or not glob.has_magic(text):
            yield from _of_path(path, PurePath(path.name), selection, left_out)
            continue
        root = _fixed_part(path)
        found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - as typed, also from /
        if not found:
            yield Unreadable(path, f"Nothing matches {text}.")
        for match in map(Path, found):
            if match.is_file() or not match.exists():
                yield from _of_path(match, match.relative_to(root), selection, left_out)


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _of_path(
    path: Path, name: PurePath, selection: Selection, left_out: set[tuple[int, int] | None]
) -> Iterator[Item | Unreadable]:
    try:
        if path.is_dir():
            yield from _of_folder(path, PurePath(), selection, left_out)
        elif path.exists():
            yield Item(path, name)
        else:
            yield Unreadable(path, f"There is no file {path}.")
    except OSError as error:
        yield Unreadable(path, f"{path}: {error.strerror}.")


def _of_folder(
    folder: Path, name: PurePath, selection: Selection, left_out: set[tuple[int, int] | None]
) -> Iterator[Item | Unreadable]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Unreadable(folder, f"{folder}: {error.strerror}.")
        return
    for entry in listed:
        below = name / entry.name
        if entry.is_dir(follow_symlinks=False):
            if selection.enters(below) and _identity(Path(entry.path)) not in left_out:
                yield from _of_folder(Path(entry.path), below, selection, left_out)
        elif selection.takes(below) and _is_file(entry):
            yield Item(Path(entry.path), below)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a file or a link to one; a link to nothing counts as one."""
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:
        return True


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
