"""Finds the pictures of a run: files, folders and globs become items with a name for the result."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
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
    that no walk turns in circles. A picture that several inputs have under one name comes once.

    Args:
        inputs: files, folders and globs.
        selection: which files of folders are taken.
        leave_out: folders that are not entered, such as the output.
    """
    left_out = _Folders(leave_out)
    seen = _Seen()
    for text in inputs:
        # A folder has no picture twice, so nothing is remembered of a run over one.
        comes_once = len(inputs) == 1 and not glob.has_magic(text)
        for found in _of_input(text, selection, left_out):
            if comes_once or isinstance(found, Unreadable) or seen.is_new(found):
                yield found


class _Folders:
    """Tells which folders are left out, by what they are, not by their names."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._identities = {_identity(folder) for folder in folders} - {None}
        self._known: dict[Path, bool] = {}

    def has(self, folder: Path) -> bool:
        """Tell whether a folder is one of them."""
        return bool(self._identities) and _identity(folder) in self._identities

    def has_above(self, folder: Path, root: Path) -> bool:
        """Tell whether a folder is one of them or below one, up to ``root``."""
        unknown = []
        while folder not in self._known:
            unknown.append(folder)
            if folder == root:
                break
            folder = folder.parent
        is_below = self._known.get(folder, False)
        for one in reversed(unknown):
            is_below = self._known[one] = is_below or self.has(one)
        return is_below


class _Seen:
    """Remembers pictures with their names."""

    def __init__(self) -> None:
        self._items: set[tuple[str, str, PurePath]] = set()
        self._folders: dict[Path, str] = {}

    def is_new(self, item: Item) -> bool:
        """Remember a picture; tell whether it comes for the first time."""
        folder = item.source.parent
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        key = (self._folders[folder], item.source.name, item.name)
        if key in self._items:
            return False
        self._items.add(key)
        return True


def _of_input(text: str, selection: Selection, left_out: _Folders) -> Iterator[Item | Unreadable]:
    path = Path(text)
    if os.path.lexists(path) or not glob.has_magic(text):
        yield from _of_path(path, PurePath(path.name), selection, left_out)
        return
    root = _fixed_part(path)
    found = False
    for match in sorted(_matches_below(root, path.relative_to(root).parts)):
        found = True
        if not match.is_dir() and not left_out.has_above(match.parent, root):
            yield from _of_path(match, match.relative_to(root), selection, left_out)
    if not found:
        yield Unreadable(path, f"Nothing matches {text}.")


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _matches_below(folder: Path, pattern: Sequence[str]) -> set[Path]:
    """Return what a pattern, given as its parts, matches below a folder.

    It matches as in a shell: names that begin with a dot only where the pattern does so too. Unlike
    `glob.glob`, ``**`` enters no links: two links that lead back would keep it busy for ever.
    """
    found = {folder}
    for number, part in enumerate(pattern):
        last = number == len(pattern) - 1
        if part == "**":
            found = {below for one in found for below in _folders_below(one)}
            if last:
                found = {path for one in found for path in _listed(one, "*")}
        elif glob.has_magic(part):
            found = {path for one in found for path in _listed(one, part)}
        else:
            found = {one / part for one in found if os.path.lexists(one / part)}
    return found


def _listed(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield what a pattern matches in a folder; nothing if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return
    for name in names:
        hidden = name.startswith(".") and not pattern.startswith(".")
        if not hidden and fnmatch.fnmatchcase(name, pattern):
            yield folder / name


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield a folder and those below it, but not through links, and none with a dot at first."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        yield folder
        try:
            with os.scandir(folder) as entries:
                waiting += [
                    folder / entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
                ]
        except OSError:
            continue


def _of_path(
    path: Path, name: PurePath, selection: Selection, left_out: _Folders
) -> Iterator[Item | Unreadable]:
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        yield Unreadable(path, f"There is no file {path}.")
    except OSError as error:
        yield Unreadable(path, f"{path}: {error.strerror}.")
    else:
        if kind == stat.S_IFDIR:
            yield from _of_folder(path, selection, left_out)
        elif kind == stat.S_IFREG:
            yield Item(path, name)
        else:
            yield Unreadable(path, f"{path} is a pipe or a device; name a file, or - for a pipe.")


def _of_folder(
    folder: Path, selection: Selection, left_out: _Folders
) -> Iterator[Item | Unreadable]:
    # No recursion, or a very deep tree would end it.
    levels = [_entries(folder, PurePath())]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
        elif isinstance(found, Unreadable):
            yield found
        else:
            below, entry = found
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                taken = not is_folder and selection.takes(below) and _is_file(entry)
            except OSError as error:
                yield Unreadable(Path(entry.path), f"{entry.path}: {error.strerror}.")
                continue
            if taken:
                yield Item(Path(entry.path), below)
            elif is_folder and selection.enters(below) and not left_out.has(Path(entry.path)):
                levels.append(_entries(Path(entry.path), below))


def _entries(
    folder: Path, name: PurePath
) -> Iterator[tuple[PurePath, os.DirEntry[str]] | Unreadable]:
    """Yield what is in a folder with the names below the input, sorted."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Unreadable(folder, f"{folder}: {error.strerror}.")
        return
    for entry in listed:
        yield name / entry.name, entry


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a file or a link to one; a link to nothing counts as one."""
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
