"""The pictures of a run, as few bytes."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path, PurePath

from upscaled.batch.item_list import ItemList
from upscaled.batch.items import Item, Unreadable


def test_what_was_found_comes_back() -> None:
    odd = os.fsdecode(b"caf\xe9\n\t.png")
    found: list[Item | Unreadable] = [
        Item(Path("in") / odd, PurePath(odd)),
        Unreadable(Path("in") / odd, f"{odd}: Permission denied."),
        Item(Path("/größe/表.png"), PurePath("größe/表.png")),
        Unreadable(Path("none*"), "Nothing matches none*."),
    ]
    items = ItemList(iter(found))
    assert len(items) == 4
    assert list(items) == found
    assert list(items) == found
    assert len(ItemList([])) == 0


def many(count: int) -> Iterator[Item]:
    for number in range(count):
        name = PurePath(f"folder/{number:06}.png")
        yield Item(Path("in") / name, name)


def test_an_item_takes_little_more_than_its_paths() -> None:
    tracemalloc.start()
    try:
        items = ItemList(many(5000))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(items) == 5000
    assert taken / len(items) < 100
