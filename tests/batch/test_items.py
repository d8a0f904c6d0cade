"""Which files a run takes, and how it calls them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
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


def test_a_glob_enters_no_links_and_not_the_output(tree: Path) -> None:
    (tree / "deep/loop").symlink_to(tree)
    (tree / "deep/er/loop").symlink_to(tree)  # two of them: a walk that follows links has no end
    assert names("in/**/*.png", leave_out=("in/out",)) == ["b.png", "raw/f.png"]
    assert names("in/*/*.png", leave_out=("in/out",)) == ["raw/f.png"]
    assert names("in/*/loop/b.png") == ["deep/loop/b.png"]  # as a shell does
    assert "deep/c.webp" in names("in/**")


@pytest.mark.usefixtures("tree")
def test_a_picture_that_several_inputs_have_comes_once() -> None:
    assert names("in/b.png", "in/../in/b.png", "in", "in/**/b.png") == ["b.png", "a.JPG"]
    assert names("in", ".", recursive=True)[-1] == "in/raw/f.png"  # another name is another result


def test_only_regular_files_are_taken(tree: Path) -> None:
    os.mkfifo(tree / "pipe.png")
    (tree / "linked.png").symlink_to("pipe.png")
    (tree / "endless.png").symlink_to("/dev/zero")
    assert names("in") == ["a.JPG", "b.png"]
    assert names("in/pipe.png", "in/endless.png") == [
        f"! in/{name}.png is a pipe or a device; name a file, or - for a pipe."
        for name in ("pipe", "endless")
    ]


def test_a_tree_may_be_as_deep_as_the_system_allows(tree: Path) -> None:
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(os.open("deepest.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    try:
        (found,) = [name for name in names("in", recursive=True) if "deepest" in name]
        assert found == "d/" * 1200 + "deepest.png"
        assert names("in/**/deepest.png") == [found]
    finally:
        subprocess.run(["rm", "-r", tree / "d"], check=True)  # too deep for shutil.rmtree


def test_a_folder_that_may_be_listed_but_not_entered_is_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On file systems that do not tell a name's kind, it is asked for, which may be refused.
    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)

    read = os.scandir

    @contextlib.contextmanager
    def scandir(folder: Path) -> Iterator[list[Entry]]:
        with read(folder) as entries:
            yield [Entry(entry) for entry in entries]

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"! {tree / 'b.png'}: Permission denied." in names(str(tree))
