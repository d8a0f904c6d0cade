"""`Folding`: which names the file system of the results takes for one, such as A.png and a.png.

File systems of Windows and macOS and their network shares do so, and ext4 does in folders that are
set up for it. There, a result would silently replace another one.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from upscaled import files
from upscaled.batch.work_folders import file_system_of

_FOLDS_CASE = frozenset({"vfat", "msdos", "exfat", "hfsplus"})
"""File systems that do so unless they are set up otherwise."""
_MOST_NAMES = 1000
"""How many names of a folder are looked at."""
_ACCENTED = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@dataclass(frozen=True)
class Folding:
    """What a file system leaves out of account when it compares names."""

    case: bool = False
    """Upper and lower case."""
    forms: bool = False
    """Whether an accented letter is one character (NFC), or a letter and an accent (NFD)."""

    def key(self, path: PurePath) -> str:
        """Return what is the same for all spellings of a path."""
        text = str(path)
        if self.forms:
            text = unicodedata.normalize("NFD", text)
        if self.case:
            text = text.casefold()
        # Without case, some letters have another form than before.
        return unicodedata.normalize("NFD", text) if self.forms and self.case else text


def probed(folder: Path, exists: Callable[[Path], bool] = os.path.lexists) -> Folding:
    """Find out about a folder with empty files, which are removed again; blocking.

    Args:
        folder: it is there, and no other process removes parts from it.
        exists: tells whether there is something at a path.

    Raises:
        OSError: it can't be written.
    """
    part = files.part_beside(folder / "probe")
    with _empty_file(part):
        case = exists(part.with_name(part.name.upper()))
    forms = False
    part = part.with_stem(part.stem + _ACCENTED)
    with contextlib.suppress(OSError), _empty_file(part):  # some can't have such a name
        forms = exists(part.with_name(unicodedata.normalize("NFD", part.name)))
    return Folding(case, forms)


@contextlib.contextmanager
def _empty_file(path: Path) -> Iterator[None]:
    path.touch(exist_ok=False)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def seen(folder: Path) -> Folding:
    """Find out about a folder from names that are there; blocking.

    Nothing is written. So it is a guess, by the kind of file system, where no name tells.

    Args:
        folder: it may be missing.
    """
    absolute = folder.absolute()
    place = next(one for one in (absolute, *absolute.parents) if one.is_dir())
    names: set[str] = set()
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        names.update(entry.name for entry, _ in zip(entries, range(_MOST_NAMES), strict=False))
    case = _is_folded(place, names, str.swapcase)
    if case is None:
        case = file_system_of(place) in _FOLDS_CASE
    forms = _is_folded(place, names, _other_form)
    return Folding(case, bool(forms))


def _is_folded(folder: Path, names: set[str], respelled: Callable[[str], str]) -> bool | None:
    """Tell whether names in a folder are found by another spelling; None: none has another."""
    for name in names:
        other = respelled(name)
        if other in names:  # also if it is the same
            continue
        try:
            return os.path.samestat((folder / other).lstat(), (folder / name).lstat())
        except OSError:
            return False
    return None


def _other_form(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)
    return composed if composed != name else unicodedata.normalize("NFD", name)
