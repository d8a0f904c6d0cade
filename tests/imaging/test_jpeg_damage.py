"""JPEGs whose coded pixels are damaged while all markers are right."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.imaging import pixels_of
from testkit.paths import DATA
from testkit.pictures import encoded
from testkit.zoo import CARD
from upscaled.errors import UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.prepared import Prepared

with Image.open(DATA / "coffee.jpg") as photo:
    PHOTO = photo.convert("RGB").resize((311, 205))
JPEGS = {
    "baseline": encoded(PHOTO, "JPEG", quality=90),
    "progressive": encoded(PHOTO, "JPEG", quality=90, progressive=True),
    "grey": encoded(PHOTO.convert("L"), "JPEG", quality=90),
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG", quality=90),
    "restarts": encoded(PHOTO, "JPEG", quality=90, restart_marker_blocks=20),
    "synthetic": encoded(CARD, "JPEG", quality=95, subsampling=0),
}
RESTART = re.compile(b"\xff[\xd0-\xd7]")
ALL_ONES = b"\xff\x00" * 8  # no code of Huffman consists of ones only
NOTE = "pixels, perhaps: ([0-9]+) or more of the file's bytes belong to none"


def _prepared(data: bytes, folder: Path) -> Prepared:
    (folder / "upload").write_bytes(data)
    return prepare(folder / "upload", folder, INPUT_NAMES, 10_000_000)


def _noticed(data: bytes, folder: Path) -> bool:
    """Tell whether a picture is refused for its coded pixels, or has a note about them."""
    try:
        return any("pixels, perhaps" in words for words in _prepared(data, folder).lost)
    except UnusablePictureError as error:
        assert "broken (its coded pixels)" in error.message
        return True


def _interval(data: bytes, number: int) -> tuple[int, int]:
    """Return where a restart interval of the scan begins and ends."""
    marks = [found.start() for found in RESTART.finditer(data, data.index(b"\xff\xda"))]
    return marks[number] + 2, marks[number + 1]


@pytest.mark.parametrize("name", JPEGS)
def test_a_good_jpeg_is_taken_without_a_note(name: str, tmp_path: Path) -> None:
    assert not [words for words in _prepared(JPEGS[name], tmp_path).lost if "pixels" in words]


@pytest.mark.parametrize("name", JPEGS)
def test_codes_that_do_not_exist_are_noticed(name: str, tmp_path: Path) -> None:
    data = bytearray(JPEGS[name])
    at = data.rindex(b"\xff\xda") + 40 if name == "progressive" else len(data) // 2
    data[at:at] = ALL_ONES
    assert _noticed(bytes(data), tmp_path)


def test_pixels_that_are_missing_between_two_good_markers_are_refused(tmp_path: Path) -> None:
    data = JPEGS["restarts"]
    begin, end = _interval(data, 3)
    with pytest.raises(UnusablePictureError, match=r"broken \(its coded pixels\)"):
        _prepared(data[: begin + 9] + data[end:], tmp_path)


@pytest.mark.parametrize("where", ["before a marker", "at the end"])
def test_bytes_that_belong_to_no_pixel_are_told(where: str, tmp_path: Path) -> None:
    data = JPEGS["restarts"]
    wanted = pixels_of(_prepared(data, tmp_path).source).copy()
    at = len(data) - 2 if where == "at the end" else _interval(data, 5)[1]
    prepared = _prepared(data[:at] + bytes(37) + data[at:], tmp_path)
    (told,) = [re.fullmatch(NOTE, words) for words in prepared.lost]
    assert told is not None
    assert 29 <= int(told[1]) <= 37  # it reads ahead by 8 bytes at most
    assert (pixels_of(prepared.source) == wanted).all()


def test_about_half_of_the_wrong_bytes_are_noticed(tmp_path: Path) -> None:
    data, chance = JPEGS["restarts"], random.Random(5)
    clean = np.array(pixels_of(_prepared(data, tmp_path).source))
    harmed = noticed = 0
    for _ in range(120):
        begin, end = _interval(data, chance.randrange(10))
        changed = bytearray(data)
        at = chance.randrange(begin, end)
        if 0xFF in changed[at - 1 : at + 2]:
            continue
        changed[at] = chance.randrange(255)
        with Image.open(io.BytesIO(changed)) as seen:
            if (np.asarray(seen) != clean).any():
                harmed += 1
                noticed += _noticed(bytes(changed), tmp_path)
    assert harmed > 90
    assert 0.3 < noticed / harmed < 0.8, (noticed, harmed)


def test_rubbish_in_the_header_hides_no_damage_behind_it(tmp_path: Path) -> None:
    data = JPEGS["restarts"]
    data = data[:20] + b"rubbish" + data[20:]  # behind the JFIF segment
    begin, end = _interval(data, 3)
    assert not _prepared(data, tmp_path).lost
    with pytest.raises(UnusablePictureError, match="coded pixels"):
        _prepared(data[: begin + 9] + data[end:], tmp_path)
