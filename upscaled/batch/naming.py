"""Where results go, and the fields that follow from their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

from upscaled.archives.kinds import suffix_of
from upscaled.batch.folding import Folding
from upscaled.batch.items import Item
from upscaled.formats import PNG, by_alias, result_format

_MOST_NUMBERS = 100_000


class NameTakenError(Exception):
    """Another picture of this run has the same path for its result."""


class NamesResults(Protocol):
    """Gives each item the place of its result."""

    def target_of(self, item: Item) -> Path:
        """Return the result's path; blocking.

        Raises:
            NameTakenError: another picture has it.
        """
        ...

    def is_result(self, item: Item) -> bool:
        """Tell whether an item is a result of an earlier run; blocking."""
        ...


@dataclass(frozen=True)
class OneName:
    """The place of a run's only result."""

    target: Path

    def target_of(self, _item: Item) -> Path:
        return self.target

    def is_result(self, _item: Item) -> bool:
        return False


@dataclass
class Naming:
    """Gives each item the place of its result, no two the same.

    Args:
        folder: the output folder.
        suffix: goes between a name and its end: ``photo_4x.png``.
        format: the result's format; None: the picture's own, as its name says, where it can be
            written, else PNG.
    """

    folder: Path
    suffix: str = ""
    format: str | None = None
    is_occupied: Callable[[Path], bool] | None = None
    """Tells whether a place has a result that must stay; a picture then gets a number:
    ``photo-2.png``. None: results are replaced."""
    folding: Folding = field(default_factory=Folding)
    """Which names are one in the output folder."""
    _taken: dict[str, str] = field(default_factory=dict)
    """By each result's `Folding.key`, its picture."""

    def target_of(self, item: Item) -> Path:
        """Return the result's path.

        Blocking, from any thread, but for one item at a time.

        Of two pictures that differ in their ends only, such as ``a.tif`` and ``a.bmp``, the second
        keeps its own end: ``a.tif.png``.

        Raises:
            NameTakenError: two inputs have a picture of this name, or of names that the file
                system takes for one.
        """
        for name in self._names_of(item.name):
            target = self.folder / item.name.parent / name
            key = self.folding.key(target)
            if self._taken.get(key) != str(item.source):
                if key in self._taken or (self.is_occupied and self.is_occupied(target)):
                    continue
                self._taken[key] = str(item.source)
            return target
        raise self._clash(item)

    def _clash(self, item: Item) -> NameTakenError:
        target = self.folder / item.name.parent / self._name_of(item.name)
        other = Path(self._taken[self.folding.key(target)])
        same_part = PurePath(*other.parts[-len(item.name.parts) :])
        if same_part == item.name or self.folding.key(same_part) != self.folding.key(item.name):
            return NameTakenError(
                f"{other} has the same name, so both results would be {target}; put them into "
                "different folders."
            )
        only_case = str(same_part).casefold() == str(item.name).casefold()
        difference = "upper and lower case" if only_case else "the form of accented letters"
        return NameTakenError(
            f"{other} has the same name but for {difference}, which does not count on the disk of "
            f"{self.folder}, so both results would be {target}; rename one of them."
        )

    def _names_of(self, name: PurePath) -> Iterator[str]:
        first = self._name_of(name)
        yield first
        if not first.endswith(name.suffix):
            yield self._name_of(name, keep_end=True)
        if self.is_occupied is not None:
            stem, end = first.rsplit(".", 1)
            yield from (f"{stem}-{number}.{end}" for number in range(2, _MOST_NUMBERS))

    def release(self, target: Path) -> None:
        """Free a result's path, since its picture is gone."""
        self._taken.pop(self.folding.key(target), None)

    def _name_of(self, name: PurePath, *, keep_end: bool = False) -> str:
        if archive := suffix_of(name.name):
            return f"{name.name.removesuffix(archive)}{self.suffix}{archive}"
        end = name.suffix.removeprefix(".")
        row = by_alias(self.format or end)
        if row is not None and by_alias(end) is row and not keep_end:
            return f"{name.stem}{self.suffix}{name.suffix}"
        stem = name.name if keep_end or not self._is_known(name) else name.stem
        return f"{stem}{self.suffix}.{(row or PNG).result_name}"

    @staticmethod
    def _is_known(name: PurePath) -> bool:
        """Tell whether the end of a name is one of a picture, not ``scan.2024``'s."""
        return not name.suffix.removeprefix(".").isdecimal()

    def is_result(self, item: Item) -> bool:
        """Tell whether an item is a result of an earlier run: below the folder, with the suffix.

        Blocking.
        """
        return (
            bool(self.suffix)
            and item.name.stem.endswith(self.suffix)
            and self.folder.absolute() in item.source.absolute().parents
        )


def fields_for(target: Path, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields for one result: with the format of its name.

    ``quality`` and ``lossless`` are left out where the format has none, since a folder holds
    pictures of several formats.
    """
    if suffix_of(target.name) is not None:
        return dict(fields)  # each page has its own
    row = by_alias(target.suffix.removeprefix(".")) or PNG
    chosen = {**fields, "format": row.result_name}
    if "format" not in fields:
        if not result_format(row.result_name).has_quality:
            chosen.pop("quality", None)
        if not result_format(row.result_name).has_lossless:
            chosen.pop("lossless", None)
    return chosen
