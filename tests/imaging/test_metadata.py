"""Metadata of an upload is in the result, or the receipt names what is lost."""

from __future__ import annotations

import io
import random
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageFile, IptcImagePlugin, PngImagePlugin, TiffImagePlugin

from testkit.imaging import enlarged, finished
from testkit.pictures import chunk, encoded, exif, png
from testkit.zoo import CARD, COLOUR
from upscaled.formats import RESULT_NAMES
from upscaled.imaging import Finished, FinishOptions, Imaging
from upscaled.imaging.metadata import exif as exifs
from upscaled.imaging.metadata import iptc, xmp
from upscaled.pictures import Size

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWNER = "Copyright © Jürg Müller".encode()
MAKER = b"Maker\0\0\0" + bytes(range(200))
PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" '
    b'exif:PixelXDimension="60" tiff:XResolution="300/1" tiff:YResolution="300/1">'
    b"<tiff:ImageLength>44</tiff:ImageLength><dc:title>T\xc3\xa4ler</dc:title></rdf:Description>"
)
RECORDS = b"\x1c\x02\x50\x00\x06Author" + b"\x1c\x02\x74\x00\x05Owner"


def block(orientation: int = 1, *, dpi: int = 0, order: str = "<") -> bytes:
    """An EXIF block with a maker note and an interoperability directory, in a camera's layout."""
    first: list[tuple[int, int, int, Any]] = [(0x112, 3, 1, orientation)] if orientation else []
    first += [(0x8298, 2, len(OWNER), OWNER), (0x8769, 4, 1, None)]
    if dpi:
        rational = struct.pack(order + "II", dpi, 1)
        first += [(0x11A, 5, 1, rational), (0x11B, 5, 1, rational), (0x128, 3, 1, 2)]
    first.sort(key=lambda entry: entry[0])
    made = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))
    tables = [first, [(0x927C, 7, len(MAKER), MAKER), (0xA001, 3, 1, 1), (0xA002, 4, 1, 60),
                      (0xA003, 4, 1, 44), (0xA005, 4, 1, None)],
              [(1, 2, 4, b"R98\0"), (0x1001, 3, 1, 60)]]  # fmt: skip
    places = []
    place = 8
    for table in tables:
        places.append(place)
        place += 6 + 12 * len(table)
    values = bytearray()
    for number, table in enumerate(tables):
        made += struct.pack(order + "H", len(table))
        for tag, kind, count, value in table:
            made += struct.pack(order + "HHI", tag, kind, count)
            if value is None:
                made += struct.pack(order + "I", places[number + 1])
            elif isinstance(value, int):
                field = struct.pack(order + ("H" if kind == 3 else "I"), value)
                made += field.ljust(4, b"\0")
            elif len(value) <= 4:
                made += value.ljust(4, b"\0")
            else:
                made += struct.pack(order + "I", place + len(values))
                values += value + bytes(len(value) % 2)
        made += bytes(4)
    return bytes(made + values)


def _exif(data: bytes) -> bytes:
    return b"Exif\0\0" + data


async def _results(
    data: bytes, imaging: Imaging, folder: Path, **options: Any
) -> dict[str, tuple[Finished, ImageFile.ImageFile]]:
    (folder / "upload").write_bytes(data)
    prepared = await imaging.prepare(folder / "upload", folder)
    native = enlarged(prepared)
    made = {}
    for kind in RESULT_NAMES:
        done = await finished(
            imaging, prepared, native, folder, FinishOptions(kind, native.size, **options)
        )
        with warnings.catch_warnings():  # of Pillow, about mutated EXIF data
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(done.path.read_bytes()))
            image.load()
        made[kind] = (done, image)
    return made


def _block_of(image: Image.Image) -> bytes:
    found = bytes(image.info.get("exif") or b"")
    return found.removeprefix(b"Exif\0\0")


def _dpi(kind: str, image: Image.Image) -> tuple[float, float] | None:
    if kind == "webp":
        return exifs.resolution(_block_of(image)) if _block_of(image) else None
    if kind == "jpg" and image.info.get("jfif_unit") != 1:
        return None
    found: tuple[float, float] | None = image.info.get("dpi")
    return found


@pytest.mark.parametrize("order", ["<", ">"])
async def test_exif_keeps_its_bytes_but_for_what_must_change(
    order: str, imaging: Imaging, tmp_path: Path
) -> None:
    source = block(6, dpi=300, order=order)
    data = encoded(CARD, "JPEG", exif=_exif(source))
    for done, image in (await _results(data, imaging, tmp_path)).values():
        made = _block_of(image)
        assert made.find(OWNER) == source.find(OWNER)
        assert made.find(MAKER) == source.find(MAKER)
        tags = image.getexif()
        details = tags.get_ifd(ExifTags.IFD.Exif)
        interoperability = tags.get_ifd(ExifTags.IFD.Interop)
        assert tags[0x112] == 1
        assert (details[0xA002], details[0xA003]) == (88, 120)
        assert interoperability[1] == "R98"
        assert interoperability[0x1001] == 88
        assert (tags[0x11A], tags[0x11B]) == (600, 600)
        assert "EXIF" in done.kept
        assert done.lost == ()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "TIFF"])
async def test_exif_of_other_formats_keeps_its_text(
    kind: str, imaging: Imaging, tmp_path: Path
) -> None:
    if kind == "TIFF":
        data = encoded(CARD, kind, tiffinfo={0x8298: OWNER})
    else:
        # Without an orientation, or Pillow's encoder of AVIF would write the block anew.
        data = encoded(CARD, kind, exif=_exif(block(0)))
    for done, image in (await _results(data, imaging, tmp_path)).values():
        assert OWNER in _block_of(image)
        assert "EXIF" in done.kept


@pytest.mark.parametrize(
    "source",
    [
        ("JPEG", {"dpi": (300, 300)}),
        ("JPEG", {"exif": _exif(block(1, dpi=300))}),
        ("PNG", {"dpi": (300, 300)}),
        ("BMP", {"dpi": (300, 300)}),
        ("TIFF", {"dpi": (300, 300)}),
        ("WEBP", {"exif": _exif(block(1, dpi=300))}),
    ],
    ids=lambda source: "-".join((source[0], *source[1])),
)
async def test_the_print_size_stays(
    source: tuple[str, dict[str, Any]], imaging: Imaging, tmp_path: Path
) -> None:
    data = encoded(CARD, source[0], **source[1])
    for kind, (done, image) in (await _results(data, imaging, tmp_path)).items():
        found = _dpi(kind, image)
        assert found is not None, kind
        assert found == pytest.approx((600, 600), abs=0.1)
        assert "resolution" in done.kept
        assert done.lost == ()


async def test_a_turned_picture_swaps_its_resolutions(imaging: Imaging, tmp_path: Path) -> None:
    data = encoded(CARD, "JPEG", dpi=(100, 200), exif=_exif(block(6)))
    for kind, (_, image) in (await _results(data, imaging, tmp_path)).items():
        assert _dpi(kind, image) == pytest.approx((400, 200), abs=0.1)


async def test_text_is_kept_in_png_and_told_elsewhere(imaging: Imaging, tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "A title")
    texts.add_text("Long", "x" * 1000, zip=True)
    texts.add_itxt("Author", "Jürg", lang="de", tkey="Urheber")
    results = await _results(encoded(CARD, "PNG", pnginfo=texts), imaging, tmp_path)
    done, image = results["png"]
    shown = {name: str(text) for name, text in image.text.items()}  # type: ignore[attr-defined]
    assert shown == {"Title": "A title", "Long": "x" * 1000, "Author": "Jürg"}
    assert image.text["Author"].lang == "de"  # type: ignore[attr-defined]
    assert done.lost == ()
    for kind in ("jpg", "webp"):
        (told,) = results[kind][0].lost
        assert told.startswith("text 'Title', 'Long', 'Author', which a ")


def _with_segments(*segments: tuple[int, bytes]) -> bytes:
    jpeg = encoded(CARD, "JPEG")
    made = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
    )
    return jpeg[:20] + made + jpeg[20:]  # behind the JFIF segment


async def test_iptc_comment_and_xmp_of_a_jpeg(imaging: Imaging, tmp_path: Path) -> None:
    data = _with_segments(
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET),
        (0xED, b"Photoshop 3.0\0" + iptc.joined(RECORDS)),
        (0xFE, "schöner Tag".encode()),
    )
    results = await _results(data, imaging, tmp_path)
    jpg, image = results["jpg"]
    assert image.info["comment"] == "schöner Tag".encode()
    records = IptcImagePlugin.getiptcinfo(image)
    assert records is not None
    assert (records[2, 0x50], records[2, 0x74]) == (b"Author", b"Owner")
    done, image = results["png"]
    assert image.info["Comment"] == "schöner Tag"
    profile = image.info["Raw profile type iptc"].encode()
    assert iptc.split(iptc.from_raw_profile(profile)) == (RECORDS, False)
    assert jpg.lost == done.lost == ()
    assert {"IPTC", "comment", "XMP"} <= set(jpg.kept) & set(done.kept)
    assert [words.partition(",")[0] for words in results["webp"][0].lost] == ["IPTC", "comment"]
    for _, image in results.values():
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert b'tiff:Orientation="1"' in packet
        assert b'exif:PixelXDimension="120"' in packet
        assert b"<tiff:ImageLength>88</tiff:ImageLength>" in packet
        assert b'tiff:XResolution="600000/1000"' in packet
        assert "Täler".encode() in packet


@pytest.mark.parametrize("tag", [33723, 34377])
async def test_iptc_of_a_tiff(tag: int, imaging: Imaging, tmp_path: Path) -> None:
    held = RECORDS if tag == 33723 else iptc.joined(RECORDS)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag], tags.tagtype[tag] = held, 7
    done, image = (await _results(encoded(CARD, "TIFF", tiffinfo=tags), imaging, tmp_path))["jpg"]
    records = IptcImagePlugin.getiptcinfo(image)
    assert records is not None
    assert records[2, 0x50] == b"Author"
    assert "IPTC" in done.kept


async def test_a_png_that_came_out_of_a_jpeg_keeps_what_that_had(
    imaging: Imaging, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    data = _with_segments((0xED, b"Photoshop 3.0\0" + iptc.joined(RECORDS)))
    done, _ = (await _results(data, imaging, first))["png"]
    results = await _results((first / done.path.name).read_bytes(), imaging, second)
    assert IptcImagePlugin.getiptcinfo(results["jpg"][1])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "TIFF"])
async def test_xmp_of_other_formats(kind: str, imaging: Imaging, tmp_path: Path) -> None:
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", PACKET.decode())
        data = encoded(CARD, kind, pnginfo=texts)
    elif kind == "TIFF":
        data = encoded(CARD, kind, tiffinfo={700: PACKET})
    else:
        data = encoded(CARD, kind, xmp=PACKET)
    for done, image in (await _results(data, imaging, tmp_path)).values():
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert "Täler".encode() in packet
        assert "XMP" in done.kept


async def test_what_no_result_holds_is_named(imaging: Imaging, tmp_path: Path) -> None:
    data = _with_segments(
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)),
        (0xEB, b"JP\0\0" + bytes(20)),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x07\xd0\0\0\0\0\0\x02ab"),
        (0xE1, _exif(exif(1, thumbnail=True).removeprefix(b"Exif\0\0"))),
    )
    results = await _results(data, imaging, tmp_path)
    for done, _ in results.values():
        told = set(done.lost)
        assert {"extended XMP", "Photoshop resources", "thumbnail"} <= told
        assert "data of an application (APP11)" in told
    later = png(COLOUR, 8, before=chunk(b"vpAg", bytes(9)), after=chunk(b"tIME", bytes(7)))
    (done, _), *_ = (await _results(later, imaging, tmp_path)).values()
    assert {"vpAg chunk", "tIME chunk"} <= set(done.lost)


async def test_nothing_is_left_where_none_is_wanted(imaging: Imaging, tmp_path: Path) -> None:
    data = encoded(
        CARD, "JPEG", exif=_exif(block(6, dpi=300)), dpi=(300, 300), comment=b"secret", xmp=PACKET
    )
    made = await _results(data, imaging, tmp_path, keep_metadata=False)
    for kind, (done, image) in made.items():
        content = done.path.read_bytes()
        assert not any(word in content for word in (OWNER, b"secret", b"xmpmeta", MAKER))
        assert _dpi(kind, image) is None
        assert {"EXIF, as was asked for", "resolution, as was asked for"} <= set(done.lost)
        assert not {"EXIF", "XMP", "comment", "resolution"} & set(done.kept)


async def test_a_thumbnail_leaves_no_bytes_behind() -> None:
    source = exif(1, thumbnail=True).removeprefix(b"Exif\0\0")
    assert b"\xff\xd8\xff" in source
    assert b"\xff\xd8\xff" not in exifs.patched(source, Size(8, 8), (2, 2))


async def test_metadata_that_is_broken_in_any_way_harms_nothing() -> None:
    random_ = random.Random(7)
    sources = [block(6, dpi=300, order=order) for order in "<>"]
    sources.append(exif(3, thumbnail=True).removeprefix(b"Exif\0\0"))
    broken = 0
    for _ in range(6000):
        data = bytearray(random_.choice(sources))
        for _ in range(random_.randint(1, 8)):
            data[random_.randrange(len(data))] = random_.choice((0, 1, 255, random_.randrange(256)))
        if random_.random() < 0.3:
            del data[random_.randrange(len(data)) :]
        try:
            made = exifs.patched(bytes(data), Size(120, 88), (2, 2), turned=True, dpi=(600, 600))
            exifs.resolution(bytes(data))
        except exifs.ExifError:
            broken += 1
        else:
            assert len(made) <= len(data) + 80 + 12 * 4096
        packet = bytearray(PACKET)
        packet[random_.randrange(len(packet))] = random_.randrange(256)
        xmp.patched(bytes(packet), Size(120, 88), (2, 2), turned=True)
        iptc.split(bytes(data))
        iptc.split(iptc.joined(RECORDS)[: random_.randrange(30)] + bytes(data[:40]))
        iptc.from_raw_profile(bytes(data))
    assert 0 < broken < 6000


@pytest.mark.parametrize("seed", range(12))
async def test_mutated_files_are_done_with_a_word_about_it(
    seed: int, imaging: Imaging, tmp_path: Path
) -> None:
    random_ = random.Random(seed)
    parts = [
        (0xE1, bytearray(_exif(block(6, dpi=300)))),
        (0xE1, bytearray(b"http://ns.adobe.com/xap/1.0/\0" + PACKET)),
        (0xED, bytearray(b"Photoshop 3.0\0" + iptc.joined(RECORDS))),
    ]
    for _, content in parts:
        for _ in range(20):
            content[random_.randrange(len(content))] = random_.randrange(256)
    data = _with_segments(*((marker, bytes(content)) for marker, content in parts))
    for done, image in (await _results(data, imaging, tmp_path)).values():
        assert image.size in {(120, 88), (88, 120)}
        assert done.file_size_bytes
