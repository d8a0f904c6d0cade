"""Where results go, and what their names mean."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from upscaled.batch.items import Item
from upscaled.batch.naming import NameTakenError, Naming, fields_for
from upscaled.errors import BadRequestError
from upscaled.pictures import Size, SizeLimit


def item(name: str, folder: str = "in") -> Item:
    return Item(Path(folder) / name, PurePath(name))


@pytest.mark.parametrize(
    ("name", "format_", "suffix", "target"),
    [
        ("a/b.png", None, "", "out/a/b.png"),
        ("b.JPEG", None, "_4x", "out/b_4x.JPEG"),
        ("b.tif", None, "", "out/b.png"),
        ("b.tif", "webp", "_2x", "out/b_2x.webp"),
        ("b.jpg", "jpeg", "", "out/b.jpg"),
        ("b.jpg", "png", "", "out/b.png"),
        ("scan", None, "", "out/scan.png"),
        ("scan.2024", None, "", "out/scan.2024.png"),
    ],
)
def test_a_result_is_named_after_its_picture(
    name: str, format_: str | None, suffix: str, target: str
) -> None:
    naming = Naming(Path("out"), suffix, format_)
    assert naming.target_of(item(name)) == Path(target)
    assert naming.target_of(item(name)) == Path(target)


def test_no_two_results_have_one_name() -> None:
    naming = Naming(Path("out"))
    assert naming.target_of(item("a.bmp")) == Path("out/a.png")
    assert naming.target_of(item("a.tif")) == Path("out/a.tif.png")
    with pytest.raises(NameTakenError, match="put them into different folders"):
        naming.target_of(item("a.tif", "other"))


def test_the_results_of_an_earlier_run_are_no_pictures(tmp_path: Path) -> None:
    naming = Naming(tmp_path, "_4x")
    assert naming.is_result(Item(tmp_path / "deep/a_4x.png", PurePath("deep/a_4x.png")))
    assert not naming.is_result(Item(tmp_path / "a.png", PurePath("a.png")))
    assert not naming.is_result(item("a_4x.png"))
    assert not Naming(tmp_path).is_result(Item(tmp_path / "a.png", PurePath("a.png")))


def test_fields_that_a_format_lacks_are_left_out() -> None:
    given = {"quality": "80", "lossless": "true", "scale": "2"}
    assert fields_for(Path("a.png"), given) == {"scale": "2", "format": "png"}
    assert fields_for(Path("a.jpeg"), given) == {"quality": "80", "scale": "2", "format": "jpg"}
    named = {**given, "format": "png"}  # the caller is to be told that this contradicts itself
    assert fields_for(Path("a.png"), named) == named


@pytest.mark.parametrize(
    ("text", "taken", "left"),
    [
        ("1600x1200", Size(1199, 1599), Size(1600, 100)),
        ("1200×1600", Size(1599, 1199), Size(1200, 1200)),
        ("2MP", Size(1000, 1999), Size(1000, 2000)),
        ("0.5", Size(100, 100), Size(1000, 500)),
    ],
)
def test_only_pictures_below_the_limit_are_taken(text: str, taken: Size, left: Size) -> None:
    limit = SizeLimit.parse(text)
    assert limit.takes(taken)
    assert not limit.takes(left)


@pytest.mark.parametrize("text", ["", "large", "100x", "-1", "1e9", "10x10x10", "5GB"])
def test_another_limit_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="it must be a size such as 1600x1200"):
        SizeLimit.parse(text)


def test_a_result_that_must_stay_gets_a_neighbour_with_a_number(tmp_path: Path) -> None:
    naming = Naming(tmp_path, is_occupied=Path.exists)
    (tmp_path / "a.png").touch()
    (tmp_path / "a-2.png").touch()
    assert naming.target_of(item("a.png")) == tmp_path / "a-3.png"
    assert naming.target_of(item("a.png")) == tmp_path / "a-3.png"
    naming.release(tmp_path / "a-3.png")
    (tmp_path / "a-3.png").touch()
    assert naming.target_of(item("a.png")) == tmp_path / "a-4.png"
