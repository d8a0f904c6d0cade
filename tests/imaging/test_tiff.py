"""TIFF files of every kind are decoded correctly, or refused with the reason."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from testkit.imaging import pixels_of
from testkit.paths import DATA
from testkit.tiff_cases import ALL, ALPHA, HEIGHT, LIGHT, PALETTE, RGB, WIDTH, case_of
from testkit.tiffs import Kind, eight_bits, tiff
from testkit.zoo import CARD
from upscaled.errors import UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.decode.tiff.directory import TiffFile
from upscaled.imaging.prepared import Prepared

FAULTS = DATA / "faults"


def _prepared(data: bytes, folder: Path) -> Prepared:
    upload = folder / "upload"
    upload.write_bytes(data)
    return prepare(upload, folder, INPUT_NAMES, 10_000_000)


def _refusal(kind: Kind) -> str | None:
    """Return words of the reason for which files of this kind are refused."""
    if kind.predictor == 2 and kind.bits % 8:
        return f"a predictor for {kind.bits} bits a sample"
    return None


def _judged(kind: Kind, folder: Path) -> str:
    """Return ``right``, ``refused``, or how the picture is wrong."""
    samples, wanted, tags = case_of(kind)
    try:
        prepared = _prepared(tiff(samples, kind, tags=tags), folder)
    except UnusablePictureError as error:
        words = _refusal(kind)
        return "refused" if words is not None and words in error.message else error.message
    found = pixels_of(prepared.source)
    wanted = np.broadcast_to(wanted, found.shape)
    off = np.abs(found.astype(int) - wanted)
    if 2 in kind.extras:  # colour under transparency is arbitrary
        off = off[eight_bits(samples[..., -len(kind.extras)], kind.bits, kind.sample) > 0]
    # Inks become colours by rounding twice; JPEG and shared colour differences lose some.
    lossy = kind.compression == "jpeg" or kind.photometric == "ycbcr"
    shared = kind.subsampling != (1, 1)
    if off.max() > (1 if not lossy else 255) or off.mean() > (8 if shared else 3 if lossy else 1):
        return f"wrong by {off.mean():.1f} levels, {off.max()} at most"
    if (prepared.alpha is not None) != (2 in kind.extras):
        return "transparency lost or invented"
    if prepared.alpha is not None:
        first = samples[..., samples.shape[2] - len(kind.extras)]
        alpha = eight_bits(first, kind.bits, kind.sample)
        if np.abs(pixels_of(prepared.alpha)[..., 0].astype(int) - alpha).max() > 1:
            return "another transparency"
    if (0 in kind.extras) != any("extra channel" in words for words in prepared.lost):
        return "the extra channel is not told"
    return "right"


def test_the_matrix(tmp_path: Path, record_property: Any) -> None:
    verdicts = {kind.name: _judged(kind, tmp_path) for kind in ALL}
    counts = Counter(v if v in {"right", "refused"} else "wrong" for v in verdicts.values())
    print(f"TIFF kinds: {len(verdicts)}; {dict(counts)}")  # noqa: T201
    wrong = {name: v for name, v in verdicts.items() if v not in {"right", "refused"}}
    assert not wrong
    assert counts["right"] >= 450
    assert len(verdicts) == len(ALL)


def _short(*values: int, order: str = "<") -> tuple[int, bytes]:
    return 3, struct.pack(f"{order}{len(values)}H", *values)


PLAIN = Kind()
UNSUPPORTED: dict[str, tuple[Kind, dict[int, tuple[int, bytes]], str]] = {
    "different depths": (PLAIN, {258: _short(5, 6, 5)}, "different depths (5, 6 bits)"),
    "different kinds": (PLAIN, {339: _short(1, 2, 1)}, "samples of different kinds"),
    "complex": (Kind(bits=64), {339: _short(6, 6, 6)}, "complex numbers"),
    "24-bit floats": (PLAIN, {258: _short(24, 24, 24), 339: _short(3, 3, 3)}, "floating-point"),
    "12-bit jpeg": (Kind(compression="jpeg"), {258: _short(12, 12, 12)}, "JPEG compression of 12"),
    "old jpeg": (PLAIN, {259: _short(6)}, "JPEG compression of the old kind"),
    "jpeg 2000": (PLAIN, {259: _short(34712)}, "JPEG 2000 compression"),
    "lerc": (PLAIN, {259: _short(34887)}, "LERC compression"),
    "unknown compression": (PLAIN, {259: _short(60_000)}, "compression 60000"),
    "inks": (Kind(photometric="separated"), {332: _short(2)}, "inks other than CMYK"),
    "camera raw": (PLAIN, {262: _short(32803)}, "the mosaic of a camera raw"),
    "logluv": (PLAIN, {262: _short(32845)}, "LogLuv"),
    "mask": (PLAIN, {262: _short(4)}, "a transparency mask in place of a picture"),
    "unknown colours": (PLAIN, {262: _short(77)}, "photometric interpretation 77"),
    "16-bit ycbcr": (Kind(bits=16, photometric="ycbcr"), {}, "YCbCr colours of 16 bits"),
    "float lab": (Kind(32, "f", "cielab"), {}, "Lab colours of 32 bits"),
    "predictor": (Kind(compression="lzw"), {317: _short(4)}, "predictor 4"),
    "17 samples": (PLAIN, {277: _short(17)}, "17 samples a pixel"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named_before_anything_is_decoded(
    name: str, tmp_path: Path
) -> None:
    kind, tags, words = UNSUPPORTED[name]
    count = 4 if kind.photometric == "separated" else 3
    samples = np.zeros((HEIGHT, WIDTH, count), f"{kind.sample}{kind.bits // 8}")
    (tmp_path / "upload").write_bytes(tiff(samples, kind, tags=tags))
    with pytest.raises(UnusablePictureError, match="not supported") as caught:
        open_picture(tmp_path / "upload", INPUT_NAMES, 10_000_000)
    assert words in caught.value.message
    assert "broken" not in caught.value.message


BROKEN: dict[str, tuple[dict[int, tuple[int, bytes]], str]] = {
    "no width": ({256: (4, struct.pack("<I", 0))}, "nothing to enlarge"),
    "too few samples": ({277: _short(2)}, "too few for its colours"),
    "few strips": ({278: _short(1)}, "it lists 3 strips of 21"),
    "no palette": ({262: _short(3)}, "it has no palette"),
    "huge tiles": ({322: _short(60_000), 323: _short(60_000), 324: (4, bytes(4)),
                    325: (4, bytes(4))}, "its tiles are 60000×60000"),
    "no bits": ({258: _short(0, 0, 0)}, "samples of 0 bits"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_contradictions_are_told_before_anything_is_decoded(name: str, tmp_path: Path) -> None:
    tags, words = BROKEN[name]
    (tmp_path / "upload").write_bytes(tiff(RGB, PLAIN, tags=tags))
    with pytest.raises(UnusablePictureError) as caught:
        open_picture(tmp_path / "upload", INPUT_NAMES, 10_000_000)
    assert words.replace("×", "?") in caught.value.message.replace("×", "?")


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "jpeg"])
def test_a_file_that_is_cut_off_is_refused_at_its_header(compression: str, tmp_path: Path) -> None:
    data = tiff(RGB, Kind(compression=compression))
    (tmp_path / "upload").write_bytes(data[:-40])
    with pytest.raises(UnusablePictureError, match=r"cut off .*strip 3 of 3"):
        open_picture(tmp_path / "upload", INPUT_NAMES, 10_000_000)


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "webp"])
def test_the_strip_that_is_broken_is_named(compression: str, tmp_path: Path) -> None:
    kind = Kind(compression=compression)
    data = bytearray(tiff(RGB, kind))
    with TiffFile(_written(data, tmp_path)) as file:
        page = next(file.directories())
        start, length = page.integers(273)[1], page.integers(279)[1]
    data[start : start + length] = bytes(length)
    with pytest.raises(UnusablePictureError, match="strip 2 of 3"):
        _prepared(bytes(data), tmp_path)


def _written(data: bytes | bytearray, folder: Path) -> Path:
    path = folder / "upload"
    path.write_bytes(data)
    return path


def test_a_big_tiff_has_the_exif_data_of_its_classic_twin(tmp_path: Path) -> None:
    blocks = []
    for name in ("bigtiff", "classictiff"):
        with open_picture(FAULTS / f"{name}.tif", INPUT_NAMES, 10_000_000) as opened:
            tags = Image.Exif()
            tags.load(b"Exif\x00\x00" + opened.exif)
            blocks.append(dict(tags))
            assert opened.orientation == 6
            assert opened.image.info["dpi"] == (300, 300)
    assert blocks[0] == blocks[1]
    assert blocks[0][0x013B] == "Jane Doe"


def test_exif_and_gps_tags_of_a_big_tiff_are_kept(tmp_path: Path) -> None:
    details = Image.Exif()
    details[0x8769] = {0x9003: "2024:05:06 07:08:09", 0x829A: (1.0 / 60)}
    details[0x8825] = {1: "N"}
    file = tmp_path / "upload"
    CARD.save(file, "TIFF", big_tiff=True, exif=details.tobytes())
    with open_picture(file, INPUT_NAMES, 10_000_000) as opened:
        tags = Image.Exif()
        tags.load(b"Exif\x00\x00" + opened.exif)
    assert tags.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
    assert tags.get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("planar16.tif", "16-bit depth"), ("greyalpha_planar_lzw.tif", ""),
        ("cmyka_8_contig_None_II_strip.tif", "approximate"), ("lab16_8.tif", "16-bit depth"),
        ("mask.tif", "a transparency mask on a page of its own"), ("int16full.tif", "16-bit"),
    ],
)  # fmt: skip
def test_specimens_that_once_failed(name: str, lost: str, tmp_path: Path) -> None:
    prepared = _prepared((FAULTS / name).read_bytes(), tmp_path)
    assert any(lost in words for words in prepared.lost) or not lost
    right = FAULTS / name.replace(".tif", ".right.png")
    found = pixels_of(prepared.source).astype(int)
    if right.exists():
        with Image.open(right) as image:
            wanted = np.asarray(image.convert("RGBA")).astype(int)
        off = np.abs(found - wanted[..., :3])[wanted[..., 3] > 0]
        assert off.mean() < 1
    if name.startswith("greyalpha"):
        assert prepared.alpha is not None
        assert (pixels_of(prepared.alpha)[..., 0] == wanted[..., 3]).all()
    if name == "int16full.tif":
        assert found.max() > 250


def test_premultiplied_colours_are_divided(tmp_path: Path) -> None:
    alpha = ALPHA[..., None] / 255
    samples = np.dstack((np.rint(RGB * alpha), ALPHA)).astype(np.uint8)
    prepared = _prepared(tiff(samples, Kind(extras=(1,))), tmp_path)
    assert prepared.alpha is not None
    assert np.abs(pixels_of(prepared.source).astype(int) - RGB).max() <= 3


def test_an_unused_fourth_sample_is_no_transparency(tmp_path: Path) -> None:
    samples = np.dstack((RGB, np.zeros_like(LIGHT)))
    assert _prepared(tiff(samples, PLAIN), tmp_path).alpha is None
    samples = np.dstack((RGB, ALPHA))
    assert _prepared(tiff(samples, PLAIN), tmp_path).alpha is not None


@pytest.mark.parametrize(
    ("values", "sample", "words"),
    [
        (np.array([0.0, 7.5]), "f4", "go from 0 to 7.5"), (np.array([-0.5, 1]), "f2", "from -0.5"),
        (np.array([0.5, np.nan]), "f8", "not numbers"), (np.array([0, 70_000]), "u4", "70000"),
        (np.array([-3, 70_000]), "i4", "70000"),
    ],
)  # fmt: skip
def test_samples_that_do_not_say_what_is_white_are_refused(
    values: NDArray[Any], sample: str, words: str, tmp_path: Path
) -> None:
    kind = Kind(int(sample[1]) * 8, sample[0], "black is zero")
    with pytest.raises(UnusablePictureError, match=words):
        _prepared(tiff(np.tile(values, 40).reshape(8, 10, 1).astype(sample), kind), tmp_path)


def test_32_bit_integers_of_16_bits_and_signed_ones_without_negatives(tmp_path: Path) -> None:
    deep = LIGHT[..., None].astype(np.uint32) * 257
    kind = Kind(32, "u", "black is zero")
    assert (
        pixels_of(_prepared(tiff(deep, kind), tmp_path).source)[..., :1] == LIGHT[..., None]
    ).all()
    signed = (LIGHT[..., None].astype(np.int32) * 32767 // 255).astype(np.int16)
    found = pixels_of(_prepared(tiff(signed, replace(kind, bits=16, sample="i")), tmp_path).source)
    assert np.abs(found[..., :1].astype(int) - LIGHT[..., None]).max() <= 1


def test_a_palette_of_8_bits(tmp_path: Path) -> None:
    index = (LIGHT >> 4)[..., None]
    table = PALETTE[:16].T.astype("<u2").tobytes()
    data = tiff(index, Kind(bits=4, photometric="palette"), tags={320: (3, table)})
    assert (pixels_of(_prepared(data, tmp_path).source) == PALETTE[index[..., 0]]).all()


def test_a_chain_of_pages_that_leads_back_ends(tmp_path: Path) -> None:
    data = bytearray(tiff(RGB, PLAIN))
    count = struct.unpack_from("<H", data, 8)[0]
    struct.pack_into("<I", data, 10 + 12 * count, 8)
    assert _prepared(bytes(data), tmp_path).source.size.width == WIDTH


def test_lengths_that_are_wrong_do_not_matter_without_compression(tmp_path: Path) -> None:
    data = tiff(RGB, PLAIN, tags={279: (4, bytes(12))})
    assert (pixels_of(_prepared(data, tmp_path).source) == RGB).all()
