"""`ItemList`: the pictures of a run in few bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from upscaled.batch.items import Item, Unreadable


class ItemList:
    """Items that are found, counted and then taken one by one.

    Of each it keeps two paths as bytes, a fifth of what the items themselves would take.

    Args:
        found: what `items.find` yields.
    """

    def __init__(self, found: Iterable[Item | Unreadable]) -> None:
        self._texts = bytearray()
        self._ends = array("Q")
        for one in found:
            second = str(one.name) if isinstance(one, Item) else f"\0{one.reason}"
            self._texts += f"{one.source}\0{second}".encode("utf-8", "surrogatepass")
            self._ends.append(len(self._texts))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Item | Unreadable]:
        begin = 0
        for end in self._ends:
            text = self._texts[begin:end].decode("utf-8", "surrogatepass")
            source, _, second = text.partition("\0")
            begin = end
            if second.startswith("\0"):
                yield Unreadable(Path(source), second[1:])
            else:
                yield Item(Path(source), PurePath(second))
