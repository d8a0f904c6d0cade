"""Chunks of PNGs: unknown ones that matter, wrong places, animations, impossible lengths."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from testkit.imaging import pixels_of
from testkit.pictures import chunk, png
from upscaled.errors import UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.prepared import Prepared

COLOUR = np.random.default_rng(4).integers(0, 256, (16, 12, 3))
END = chunk(b"IEND", b"")


def _prepared(data: bytes, folder: Path) -> Prepared:
    (folder / "upload").write_bytes(data)
    return prepare(folder / "upload", folder, INPUT_NAMES, 10_000_000)


def _refusal(data: bytes, folder: Path) -> str:
    """Return why the header alone leads to a refusal, as it does at submission."""
    (folder / "upload").write_bytes(data)
    with pytest.raises(UnusablePictureError) as refused:
        open_picture(folder / "upload", INPUT_NAMES, 10_000_000)
    return refused.value.message


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what is before the chunk IDAT, its content, and what is behind it."""
    at = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, at)
    return data[:at], data[at + 8 : at + 8 + length], data[at + 12 + length :]


@pytest.mark.parametrize("name", [b"CgBI", b"JDAT", b"XXXX", b"Xxxx", b"XXxX"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_an_unknown_chunk_that_matters_is_refused_by_its_name(
    name: bytes, where: str, tmp_path: Path
) -> None:
    data = png(COLOUR, 8, **{where: chunk(name, b"content")})  # type: ignore[arg-type]
    told = _refusal(data, tmp_path)
    assert told.startswith(f"The PNG file has the critical chunk {name.decode()}, which is not")


def test_apples_own_kind_of_png_is_refused_by_the_chunk_before_its_header(tmp_path: Path) -> None:
    data = png(COLOUR, 8)
    told = _refusal(data[:8] + chunk(b"CgBI", b"\x50\0\x20\6") + data[8:], tmp_path)
    assert "the critical chunk CgBI, which is not supported" in told


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_unknown_chunk_that_does_not_matter_is_named_as_lost(where: str, tmp_path: Path) -> None:
    data = png(COLOUR, 8, **{where: chunk(b"xxXX", b"content")})  # type: ignore[arg-type]
    prepared = _prepared(data, tmp_path)
    assert (pixels_of(prepared.source) == COLOUR).all()
    assert prepared.lost == ("xxXX chunk",)


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    told = _refusal(png(COLOUR, 8, before=chunk(b"a\0b1", b"")), tmp_path)
    assert "the name a?b1 of a chunk has other characters than letters" in told


def test_chunks_in_wrong_places_are_named(tmp_path: Path) -> None:
    whole = png(COLOUR, 8)
    start, pixels, _ = _split(whole)
    header, palette, rows = start[8:], chunk(b"PLTE", bytes(6)), chunk(b"IDAT", pixels)
    cut = chunk(b"IDAT", pixels[:50]), chunk(b"IDAT", pixels[50:])
    for chunks, words in (
        (header + header + rows, "chunk IHDR comes twice"),
        (header + rows + header, "chunk IHDR comes twice"),
        (rows + header, "it begins with chunk IDAT instead of IHDR"),
        (palette + header + rows, "it begins with chunk PLTE instead of IHDR"),
        (chunk(b"tEXt", b"a\0b"), "it begins with chunk IEND instead of IHDR"),
        (header + palette + palette + rows, "chunk PLTE comes twice"),
        (header + rows + palette, "chunk PLTE comes after the pixels"),
        (header + cut[0] + chunk(b"tIME", bytes(7)) + cut[1],
         "chunk tIME is between the pixels, chunks IDAT"),
        (header, "it lacks the pixels, chunk IDAT"),
    ):  # fmt: skip
        assert f"broken ({words})" in _refusal(start[:8] + chunks + END, tmp_path)
    assert not _prepared(start[:8] + header + cut[0] + cut[1] + END, tmp_path).lost
    assert not _prepared(start[:8] + header + palette + rows + END, tmp_path).lost


def _frame(number: int, width: int = 12, height: int = 16) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0))


def _counter(frames: int) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (_counter(2) + _frame(0), 2),
        (_counter(2), 3),  # the picture itself is none of them
        (_counter(1), 2),
        (_counter((1 << 31) - 1) + _frame(0), (1 << 31) - 1),
    ],
)
def test_an_animation_is_refused_with_its_frames(before: bytes, told: int, tmp_path: Path) -> None:
    refused = _refusal(png(COLOUR, 8, before=before), tmp_path)
    assert refused == f"The file is an animation of {told} frames; send one frame."


@pytest.mark.parametrize(
    "before",
    [
        _counter(1) + _frame(0),
        _counter(0),
        _counter(0) + _frame(0),
        _counter(1 << 31) + _frame(0),
        chunk(b"acTL", b""),
        chunk(b"acTL", bytes(7)),
        chunk(b"acTL", bytes(9)),
        _frame(7, 999, 999),
        chunk(b"fcTL", bytes(3)),
        chunk(b"fdAT", b""),
        chunk(b"fdAT", bytes(9)),
    ],
)
def test_what_is_no_animation_is_taken_and_its_chunks_are_told(
    before: bytes, tmp_path: Path
) -> None:
    for data in (png(COLOUR, 8, before=before), png(COLOUR, 8, after=before)):
        prepared = _prepared(data, tmp_path)
        assert (pixels_of(prepared.source) == COLOUR).all()
        assert f"{before[4:8].decode()} chunk" in prepared.lost


@pytest.mark.parametrize("name", [b"cHRM", b"cICP", b"gAMA", b"pHYs", b"sRGB", b"tRNS"])
@pytest.mark.parametrize("length", [0, 3, 5, 33])
def test_a_chunk_of_an_impossible_length_is_told_and_the_picture_taken(
    name: bytes, length: int, tmp_path: Path
) -> None:
    body = chunk(name, bytes(length))
    for data in (png(COLOUR, 8, before=body), png(COLOUR, 8, after=body)):
        prepared = _prepared(data, tmp_path)
        assert (pixels_of(prepared.source) == COLOUR).all()
        assert prepared.lost == (f"chunk {name.decode()}, which has {length} bytes",)


@pytest.mark.parametrize("body", [b"", b"\0", b"name", b"name\0", b"name\0\1", b"x" * 90])
def test_a_profile_chunk_that_makes_no_sense_is_told_once(body: bytes, tmp_path: Path) -> None:
    prepared = _prepared(png(COLOUR, 8, before=chunk(b"iCCP", body)), tmp_path)
    assert (pixels_of(prepared.source) == COLOUR).all()
    assert prepared.lost == ("chunk iCCP, which is broken",)


def test_a_transparent_colour_of_16_bits_is_read_beside_a_damaged_chunk(tmp_path: Path) -> None:
    samples = np.full((4, 5, 3), 0x1234)
    samples[2] = 0x5678
    key = chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0x1234, 0x1234))
    data = png(samples, 16, before=key + chunk(b"pHYs", b""))
    prepared = _prepared(data, tmp_path)
    assert prepared.alpha is not None
    assert set(pixels_of(prepared.alpha)[2].ravel()) == {255}
    assert "chunk pHYs, which has 0 bytes" in prepared.lost
