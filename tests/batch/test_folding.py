"""Names that a file system takes for one."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePath

import pytest

from upscaled.batch import folding, work_folders
from upscaled.batch.folding import Folding, probed, seen
from upscaled.batch.items import Item
from upscaled.batch.naming import NameTakenError, Naming

BOTH = Folding(case=True, forms=True)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))


def item(name: str, folder: str = "in") -> Item:
    return Item(Path(folder) / name, PurePath(name))


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        (Folding(), "a.png", "A.png", False),
        (Folding(case=True), "a/b.png", "A/B.PNG", True),
        (Folding(case=True), "É.png", "é.png", True),
        (Folding(case=True), COMPOSED, DECOMPOSED, False),
        (Folding(forms=True), COMPOSED, DECOMPOSED, True),
        (Folding(forms=True), "a.png", "A.png", False),
        (BOTH, COMPOSED.upper(), DECOMPOSED, True),
        (BOTH, "a.png", "b.png", False),
    ],
)
def test_spellings_of_one_name_have_one_key(
    kind: Folding, one: str, other: str, same: bool
) -> None:
    assert (kind.key(PurePath(one)) == kind.key(PurePath(other))) is same


def test_a_disk_is_asked_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    def there(path: Path) -> bool:
        return BOTH.key(path) in {BOTH.key(one) for one in tmp_path.iterdir()}

    assert probed(tmp_path) == Folding()
    assert probed(tmp_path, there) == BOTH
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        probed(tmp_path / "missing")


def test_a_disk_that_takes_no_accents_is_asked_about_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_ACCENTED", 300 * "x")  # too long a name, to this disk
    assert probed(tmp_path, lambda _: True) == Folding(case=True)
    assert list(tmp_path.iterdir()) == []


def test_without_writing_the_names_that_are_there_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "file_system_of", lambda _: "vfat")
    out = tmp_path / "out"
    out.mkdir()
    (out / "7").touch()  # has one spelling only
    assert seen(out) == seen(out / "new/and/deep") == Folding(case=True)
    (out / "photo.png").touch()
    assert seen(out) == Folding()
    (out / "PHOTO.PNG").hardlink_to(out / "photo.png")  # two names of one file
    assert seen(out / "new") == Folding(case=True)  # and no name that tells
    monkeypatch.setattr(folding, "file_system_of", lambda _: "ext4")
    assert seen(out) == Folding()


def test_the_file_system_of_a_folder_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 2 0:1 / {tmp_path}/stick rw - vfat /dev/sdx rw\n")
    (tmp_path / "stick").mkdir()
    monkeypatch.setattr(work_folders, "_MOUNTS", mounts)
    assert seen(tmp_path / "stick") == Folding(case=True)


def test_two_spellings_of_one_result_are_a_clash() -> None:
    naming = Naming(Path("out"), folding=BOTH)
    assert naming.target_of(item("A.png")) == Path("out/A.png")
    with pytest.raises(NameTakenError) as clash:
        naming.target_of(item("a.png"))
    assert str(clash.value) == (
        "in/A.png has the same name but for upper and lower case, which does not count on the "
        "disk of out, so both results would be out/a.png; rename one of them."
    )
    naming.target_of(item(COMPOSED))
    with pytest.raises(NameTakenError, match="but for the form of accented letters"):
        naming.target_of(item(DECOMPOSED))
    naming.target_of(item("Trip/1.png"))
    with pytest.raises(NameTakenError, match=r"^in/Trip/1\.png has the same name but for upper "):
        naming.target_of(item("trip/1.png"))
    with pytest.raises(NameTakenError, match="put them into different folders"):
        naming.target_of(item("A.png", "other"))
    naming.release(Path("out/a.PNG"))
    assert naming.target_of(item("a.png")) == Path("out/a.png")
    assert naming.target_of(item("A.tif")) == Path("out/A.tif.png")


def test_a_disk_that_tells_them_apart_holds_both() -> None:
    naming = Naming(Path("out"))
    for name in ("A.png", "a.png", COMPOSED, DECOMPOSED):
        assert naming.target_of(item(name)) == Path("out") / name
