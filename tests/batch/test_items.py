"""Which files a run takes, and how it calls them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from upscaled.batch.items import Item, Selection, Unreadable, find


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of empty files, which is the working directory's ``in``."""
    names = ("b.png", "a.JPG", "notes.txt", ".hidden.png", "deep/c.webp", "deep/er/d.tif",
             "deep/.git/e.png", "raw/f.png", "out/g.png")  # fmt: skip
    for name in names:
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def names(*inputs: str, leave_out: tuple[str, ...] = (), **selection: object) -> list[str]:
    chosen = Selection(**selection)  # type: ignore[arg-type]
    found = find(inputs, chosen, leave_out=[Path(name) for name in leave_out])
    return [
        item.name.as_posix() if isinstance(item, Item) else f"! {item.reason}" for item in found
    ]


@pytest.mark.usefixtures("tree")
def test_a_folder_gives_its_pictures_in_order() -> None:
    assert names("in") == ["a.JPG", "b.png"]
    deep = ["a.JPG", "b.png", "deep/c.webp", "deep/er/d.tif", "out/g.png", "raw/f.png"]
    assert names("in", recursive=True) == deep
    assert names("in/", recursive=True, leave_out=("in/out",)) == [
        name for name in deep if name != "out/g.png"
    ]


@pytest.mark.usefixtures("tree")
def test_patterns_choose_by_name_and_by_path() -> None:
    assert names("in", recursive=True, include=("*.txt", "*.png")) == [
        ".hidden.png", "b.png", "notes.txt", "out/g.png", "raw/f.png",
    ]  # fmt: skip
    assert names("in", recursive=True, exclude=("raw", "deep/er", "*.jpg")) == [
        "b.png", "deep/c.webp", "out/g.png",
    ]  # fmt: skip
    assert names("in", recursive=True, include=("deep/*",)) == ["deep/c.webp", "deep/er/d.tif"]


@pytest.mark.usefixtures("tree")
def test_globs_are_named_from_their_fixed_part() -> None:
    assert names("in/*.png") == ["b.png"]
    assert names("in/**/*.tif") == ["deep/er/d.tif"]
    assert names("in/d*/c.webp") == ["deep/c.webp"]
    assert names("in/*.gif") == ["! Nothing matches in/*.gif."]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tree: Path) -> None:
    (tree / "x[1].png").touch()
    assert names("in/x[1].png", "in/notes.txt") == ["x[1].png", "notes.txt"]


@pytest.mark.usefixtures("tree")
def test_what_is_missing_is_told_and_stops_nothing() -> None:
    assert names("none.png", "in/b.png") == ["! There is no file none.png.", "b.png"]


def test_links_to_folders_do_not_turn_in_circles(tree: Path) -> None:
    (tree / "deep/loop").symlink_to(tree)
    (tree / "linked.png").symlink_to(tree / "b.png")
    (tree / "broken.png").symlink_to(tree / "gone.png")
    assert names("in", recursive=True)[:4] == ["a.JPG", "b.png", "broken.png", "deep/c.webp"]
    assert "linked.png" in names("in")


def test_a_folder_that_may_not_be_read_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.scandir

    def scandir(folder: Path) -> Iterator[os.DirEntry[str]]:
        if Path(folder).name == "deep":  # root may read everything, so permissions are no test
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return read(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(find(["in"], Selection(recursive=True)))
    (told,) = [item for item in found if isinstance(item, Unreadable)]
    assert told.reason.endswith("Permission denied.")
    assert len(found) > 1
