"""Files that are damaged or unusual: taken where all pixels are there, else told what is wrong."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from testkit.imaging import pixels_of
from testkit.paths import DATA
from testkit.pictures import chunk, encoded, png
from testkit.zoo import CARD, COLOUR, GREY
from upscaled.errors import NotAPictureError, UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.prepared import Prepared

FAULTS = DATA / "faults"
BIG = CARD.resize((311, 205))
END = b"\xff\xd9"


def _prepared(data: bytes, folder: Path) -> Prepared:
    (folder / "upload").write_bytes(data)
    return prepare(folder / "upload", folder, INPUT_NAMES, 10_000_000)


def _refusal(data: bytes, folder: Path) -> str:
    with pytest.raises(UnusablePictureError) as caught:
        _prepared(data, folder)
    return caught.value.message


JPEGS: dict[str, bytes] = {
    "baseline": encoded(BIG, "JPEG", quality=90),
    "subsampled": encoded(BIG, "JPEG", quality=90, subsampling=2),
    "grey": encoded(BIG.convert("L"), "JPEG", quality=90),
    "progressive": encoded(BIG, "JPEG", quality=90, progressive=True),
    "restarts": encoded(BIG, "JPEG", quality=90, restart_marker_rows=1),
    "many restarts": encoded(BIG, "JPEG", quality=90, restart_marker_blocks=3, subsampling=1),
    "specimen": (FAULTS / "no_eoi.jpg").read_bytes() + END,
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_taken_and_told(name: str, tmp_path: Path) -> None:
    whole = JPEGS[name]
    assert whole.endswith(END)
    wanted = pixels_of(_prepared(whole, tmp_path).source).copy()
    for data in (whole[:-2], whole[:-1]):
        prepared = _prepared(data, tmp_path)
        assert (pixels_of(prepared.source) == wanted).all()
        assert any("end marker (FF D9)" in words for words in prepared.lost)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_more_is_refused(name: str, tmp_path: Path) -> None:
    whole = JPEGS[name][:-2]
    for missing in (4, 40, len(whole) // 2):
        assert "cut off" in _refusal(whole[:-missing], tmp_path)


def test_a_jpeg_that_ends_between_restarts_or_scans_is_refused(tmp_path: Path) -> None:
    for name in ("restarts", "many restarts"):
        whole = JPEGS[name]
        marks = [at for at in range(len(whole) - 1)
                 if whole[at] == 0xFF and 0xD0 <= whole[at + 1] <= 0xD7]  # fmt: skip
        for at in (marks[-1], marks[len(marks) // 2]):
            assert "cut off" in _refusal(whole[:at], tmp_path)
    whole = JPEGS["progressive"]
    scans = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
    assert len(scans) > 4
    for at in (scans[-1], scans[2]):
        assert "cut off" in _refusal(whole[:at], tmp_path)


@pytest.mark.parametrize(
    ("marker", "words"),
    [(0xC3, "lossless coding"), (0xC5, "hierarchical coding"), (0xCB, "lossless arithmetic")],
)
def test_a_jpeg_of_another_coding_is_not_called_broken(
    marker: int, words: str, tmp_path: Path
) -> None:
    data = bytearray(JPEGS["baseline"])
    data[data.index(b"\xff\xc0") + 1] = marker
    told = _refusal(bytes(data), tmp_path)
    assert words in told
    assert "not supported" in told


def test_a_jpeg_of_12_bits_is_not_called_broken(tmp_path: Path) -> None:
    told = _refusal((FAULTS / "twelve_bit.jpg").read_bytes(), tmp_path)
    assert "12 bits a sample, which is not supported" in told


def test_a_jpeg_without_a_frame_is_broken(tmp_path: Path) -> None:
    assert "broken" in _refusal(b"\xff\xd8\xff\xd9", tmp_path)
    many = b"\xff\xfe\x00\x02" * 30_000
    assert "more than 10000 segments" in _refusal(b"\xff\xd8" + many, tmp_path)


def test_rubbish_between_the_segments_of_a_jpeg_does_not_matter(tmp_path: Path) -> None:
    whole = JPEGS["baseline"]
    data = whole[:20] + bytes(3) + whole[20:]
    assert (pixels_of(_prepared(data, tmp_path).source).shape) == (205, 311, 3)


def _damaged(name: bytes, body: bytes) -> bytes:
    whole = bytearray(chunk(name, body))
    whole[-1] ^= 1
    return bytes(whole)


@pytest.mark.parametrize("name", [b"tEXt", b"pHYs", b"zzZz"])
def test_a_png_with_a_damaged_chunk_that_does_not_matter_is_taken_and_told(
    name: bytes, tmp_path: Path
) -> None:
    body = {b"pHYs": struct.pack(">IIB", 9, 9, 1)}.get(name, b"Title\x00word")
    for data in (png(COLOUR, 8, before=_damaged(name, body)),
                 png(COLOUR, 8, after=_damaged(name, body) + _damaged(name, body))):  # fmt: skip
        prepared = _prepared(data, tmp_path)
        assert (pixels_of(prepared.source) == COLOUR).all()
        assert f"chunk {name.decode()}, whose checksum is wrong" in prepared.lost


def test_the_specimen_with_a_damaged_text_is_taken(tmp_path: Path) -> None:
    prepared = _prepared((FAULTS / "crc_tEXt.png").read_bytes(), tmp_path)
    assert "chunk tEXt, whose checksum is wrong" in prepared.lost


def test_a_png_with_a_damaged_chunk_that_matters_names_it(tmp_path: Path) -> None:
    data = bytearray(png(COLOUR, 8, before=_damaged(b"PLTE", bytes(9))))
    assert "the checksum of chunk PLTE is wrong" in _refusal(bytes(data), tmp_path)
    data = bytearray(png(COLOUR, 8))
    data[-20] ^= 1
    assert "the checksum of chunk IDAT 1 is wrong" in _refusal(bytes(data), tmp_path)


def test_a_png_whose_pixels_do_not_unpack_says_so(tmp_path: Path) -> None:
    rows = zlib.compress(np.dstack((GREY, GREY, GREY)).tobytes())
    body = rows[:900] + bytes(50) + rows[950:]
    data = png(COLOUR, 8)
    at = data.index(b"IDAT") - 4
    assert "its coded pixels" in _refusal(
        data[:at] + chunk(b"IDAT", body) + chunk(b"IEND", b""), tmp_path
    )


def test_a_png_that_lacks_only_its_end_is_taken_and_told(tmp_path: Path) -> None:
    data = png(COLOUR, 8)[:-12]
    prepared = _prepared(data, tmp_path)
    assert (pixels_of(prepared.source) == COLOUR).all()
    assert any("end marker (IEND)" in words for words in prepared.lost)
    (tmp_path / "upload").write_bytes(data[:-1])
    with pytest.raises(UnusablePictureError, match="in chunk IDAT"):
        open_picture(tmp_path / "upload", INPUT_NAMES, 10_000_000)


def test_a_png_of_empty_chunks_is_refused_soon(tmp_path: Path) -> None:
    many = chunk(b"zzZz", b"") * 200_000
    assert "more than 10000 chunks" in _refusal(png(COLOUR, 8, before=many), tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
def test_a_tga_is_called_a_tga(mode: str, compression: str | None, tmp_path: Path) -> None:
    image = CARD.quantize(8) if mode == "P" else CARD.convert(mode)
    file = io.BytesIO()
    image.save(file, "TGA", compression=compression)
    (tmp_path / "upload").write_bytes(file.getvalue())
    with pytest.raises(NotAPictureError, match="The file is TGA"):
        open_picture(tmp_path / "upload", INPUT_NAMES, 10_000_000)
