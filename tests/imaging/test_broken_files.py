"""Damaged or unusual files: accepted if all pixels are there, otherwise refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.imaging import pixels_of
from testkit.paths import DATA
from testkit.pictures import chunk, encoded, png
from testkit.zoo import CARD, COLOUR, GREY
from upscaled.errors import NotAPictureError, UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.metadata.sidecar import Metadata
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


def test_a_palette_picture_without_palette_is_refused_and_the_chunk_named(tmp_path: Path) -> None:
    rows = zlib.compress(bytes(9 * 8))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0))
    data += chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert "PLTE" in _refusal(data, tmp_path)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_compressed_pixels_end_early_is_refused(
    interlaced: bool, tmp_path: Path
) -> None:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, interlaced)
    length = 8 * 8 * 3 + (15 if interlaced else 8)  # a filter byte for each row of each pass
    signature = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    for missing in (0, 1, 25, 50):  # Pillow notices only a row that is begun
        rows = zlib.compress(bytes(length - missing))
        data = signature + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        if missing:
            assert "cut off before its end" in _refusal(data, tmp_path)
        else:
            assert not _prepared(data, tmp_path).lost


def test_missing_scans_of_a_jpeg_with_an_end_marker_are_told(tmp_path: Path) -> None:
    whole = JPEGS["progressive"]
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert not _prepared(whole, tmp_path).lost
    for at in starts[1:]:
        lost = _prepared(whole[:at] + END, tmp_path).lost
        assert lost == ("details, since the file lacks its last scans",)


@pytest.mark.parametrize("change", ["number", "gone"])
def test_a_jpeg_with_wrong_restart_markers_is_refused(change: str, tmp_path: Path) -> None:
    whole = bytearray(JPEGS["many restarts"])
    at = whole.index(b"\xff\xd3", whole.index(b"\xff\xda"))
    whole[at : at + 2] = b"\xff\xd6" if change == "number" else b""
    assert "restart markers" in _refusal(bytes(whole), tmp_path)


def test_the_height_of_a_jpeg_behind_its_pixels_is_named(tmp_path: Path) -> None:
    whole = bytearray(JPEGS["baseline"])
    at = whole.index(b"\xff\xc0")
    whole[at + 5 : at + 7] = b"\0\0"
    assert "DNL" in _refusal(bytes(whole), tmp_path)


def test_profile_and_photoshop_parts_that_are_broken_are_told(tmp_path: Path) -> None:
    whole = JPEGS["baseline"]
    for marker, body, words in (
        (0xE2, b"ICC_PROFILE\0\1\2" + bytes(300), "ICC profile, which is broken"),
        (0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff", "Photoshop resources"),
    ):
        segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        assert words in _prepared(whole[:2] + segment + whole[2:], tmp_path).lost


def test_bit_fields_that_are_empty_are_refused(tmp_path: Path) -> None:
    info = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 3, 0, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 66 + 128, 0, 0, 66) + info + bytes(12 + 128)
    assert "bit fields are empty" in _refusal(data, tmp_path)


def test_a_webp_that_is_cut_off_is_called_that(tmp_path: Path) -> None:
    whole = encoded(BIG, "WEBP")
    for eighth in range(1, 8):
        assert "cut off before its end" in _refusal(whole[: len(whole) * eighth // 8], tmp_path)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_transparent_colour_of_16_bits_is_compared_exactly(
    tmp_path: Path, interlaced: bool
) -> None:
    samples = np.random.default_rng(3).integers(0, 1 << 16, (9, 7, 3))
    samples[2:5] = (0x1234, 0x5678, 0x9ABC)
    samples[4] = (0x1234, 0x5678, 0x9ABD)  # the same in 8 bits
    key = chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))
    prepared = _prepared(png(samples, 16, before=key, interlaced=interlaced), tmp_path)
    assert prepared.alpha is not None
    wanted = np.full((9, 7), 255)
    wanted[2:4] = 0
    assert np.array_equal(pixels_of(prepared.alpha)[..., 0], wanted)
    assert [words for words in prepared.lost if "depth" not in words] == []


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, struct.pack(">I", 0), "chunk IHDR has the width 0 and the height 8"),
        (4, struct.pack(">I", 0), "chunk IHDR has the width 8 and the height 0"),
        (0, struct.pack(">I", 1 << 31), "chunk IHDR has the width 2147483648"),
        (8, b"\3", "chunk IHDR has the bit depth 3"),
        (9, b"\5", "chunk IHDR has the colour type 5"),
        (10, b"\1", "chunk IHDR has the compression method 1"),
        (11, b"\1", "chunk IHDR has the filter method 1"),
        (12, b"\2", "chunk IHDR has the interlace method 2"),
    ],
)
def test_a_png_whose_header_is_wrong_says_where(
    tmp_path: Path, place: int, value: bytes, words: str
) -> None:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    changed = head[:place] + value + head[place + len(value) :]
    whole = png(COLOUR[:8, :8], 8)
    data = whole.replace(chunk(b"IHDR", head), chunk(b"IHDR", changed))
    assert data != whole
    assert words in _refusal(data, tmp_path)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_pixel_whose_colour_the_palette_lacks_is_refused_and_the_chunk_named(
    tmp_path: Path, depth: int
) -> None:
    most = (1 << depth) - 1
    samples = np.zeros((8, 8, 1), int)
    samples[5, 3] = most
    palette = chunk(b"PLTE", bytes(3 * most))
    words = f"a pixel has colour {most}, but the palette, chunk PLTE, ends at {most - 1}"
    assert words in _refusal(png(samples, depth, before=palette, palette=True), tmp_path)
    palette = chunk(b"PLTE", bytes(3 * (most + 1)))
    _prepared(png(samples, depth, before=palette, palette=True), tmp_path)


@pytest.mark.parametrize("length", [0, 4, 3 * 257])
def test_a_palette_of_an_impossible_length_is_named(tmp_path: Path, length: int) -> None:
    data = png(np.zeros((8, 8, 1), int), 8, before=chunk(b"PLTE", bytes(length)), palette=True)
    assert f"chunk PLTE has {length} bytes" in _refusal(data, tmp_path)


def test_a_damaged_chunk_is_named_once(tmp_path: Path) -> None:
    damaged = _damaged(b"tIME", bytes(7))
    lost = _prepared(png(COLOUR[:8, :8], 8, before=damaged), tmp_path).lost
    assert lost == ("chunk tIME, whose checksum is wrong",)
    both = damaged + chunk(b"tIME", bytes(7)) * 2
    lost = _prepared(png(COLOUR[:8, :8], 8, before=both), tmp_path).lost
    assert lost == ("chunk tIME, whose checksum is wrong", "tIME chunk")


@pytest.mark.parametrize(
    ("density", "words"),
    [
        ((0, 0, 1), "resolution, which is invalid"),
        ((2, 1, 0), "shape of the pixels, which are not square"),
    ],
)
def test_a_resolution_without_sense_or_without_a_unit_is_told(
    tmp_path: Path, density: tuple[int, int, int], words: str
) -> None:
    data = png(COLOUR[:8, :8], 8, before=chunk(b"pHYs", struct.pack(">IIB", *density)))
    assert words in _prepared(data, tmp_path).lost
    whole = JPEGS["baseline"]
    at = whole.index(b"JFIF\0") + 7
    data = whole[:at] + struct.pack(">BHH", density[2], *density[:2]) + whole[at + 5 :]
    assert words in _prepared(data, tmp_path).lost


@pytest.mark.parametrize(
    ("notes", "kept"), [(b"Canon notes" * 9, False), (b"OLYMPUS\0II\3\0" + bytes(90), True)]
)
def test_maker_notes_of_a_tiff_are_kept_only_where_moving_does_no_harm(
    tmp_path: Path, notes: bytes, kept: bool
) -> None:
    tags = Image.Exif()
    tags.get_ifd(0x8769).update({0x927C: notes, 0x9003: "2024:01:01 00:00:00"})
    prepared = _prepared(encoded(CARD, "TIFF", exif=tags.tobytes()), tmp_path)
    told = "maker notes, whose offsets count from the start of the TIFF file"
    assert (told in prepared.lost) is not kept
    assert prepared.sidecar is not None
    block = Metadata.load(prepared.sidecar).exif
    assert (notes in block) is kept
    assert b"2024:01:01" in block
