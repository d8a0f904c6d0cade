"""BMP files of every kind are decoded correctly, or refused with the reason."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.imaging import pixels_of
from testkit.paths import DATA
from testkit.pictures import Pixels
from testkit.zoo import COLOUR, FADE, GREY
from upscaled.errors import UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.prepared import Prepared

HEIGHT, WIDTH = 21, 37
RGB, LIGHT = COLOUR[:HEIGHT, :WIDTH], GREY[:HEIGHT, :WIDTH]
ALPHA = np.maximum(FADE[:HEIGHT, :WIDTH], 40)
PALETTE = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
FIELDS = {
    "565": (16, (0xF800, 0x07E0, 0x1F, 0)), "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "231": (16, (0x3000, 0x0E00, 0x0100, 0)), "bgr": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "argb": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
}  # fmt: skip


def bmp(
    rows: Pixels,
    bits: int,
    *,
    header: int = 40,
    compression: int = 0,
    palette: Pixels | None = None,
    masks: tuple[int, ...] = (),
    top_down: bool = False,
    pixels: bytes | None = None,
) -> bytes:
    """Return a BMP file; ``rows`` are packed rows, rows × bytes, as they are seen."""
    width = WIDTH
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    body = (padded if top_down else padded[::-1]).tobytes() if pixels is None else pixels
    table = b""
    if palette is not None:
        entries = palette[:, ::-1]
        if header != 12:
            entries = np.pad(entries, ((0, 0), (0, 1)))
        table = entries.tobytes()
    if header == 12:
        info = struct.pack("<I4H", 12, width, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if top_down else HEIGHT
        colours = 0 if palette is None else len(palette)
        info = struct.pack("<IiiHH6I", header, width, height, 1, bits, compression, len(body),
                           2835, 2835, colours, 0)[:header]  # fmt: skip
        if header > 40:
            info += struct.pack(f"<{len(masks)}I", *masks)
        info = info.ljust(header, b"\x00")[:header]
        if header == 40 and masks:
            table = struct.pack(f"<{len(masks)}I", *masks) + table
    offset = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + table + body


def _packed(index: Pixels, bits: int) -> Pixels:
    flat = (index[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(flat.reshape(len(index), -1).astype(np.uint8), axis=1)


def _in_fields(masks: tuple[int, int, int, int], bits: int) -> tuple[Pixels, Pixels, Pixels]:
    """Return rows, and what colour and alpha they have."""
    values = np.zeros(LIGHT.shape, np.uint32)
    seen = np.zeros((*LIGHT.shape, 4), np.uint8)
    for channel, mask in enumerate(masks):
        if mask:
            most = mask // (mask & -mask)
            level = np.rint(np.dstack((RGB, ALPHA))[..., channel] / 255 * most).astype(np.uint32)
            values += level * np.uint32(mask & -mask)
            seen[..., channel] = np.rint(level * (255 / most))
    rows = values.astype(f"<u{bits // 8}").view(np.uint8).reshape(HEIGHT, -1)
    return rows, seen[..., :3], seen[..., 3]


def _run_lengths(index: Pixels, *, nibbles: bool) -> bytes:
    made = b""
    for number, row in enumerate(index[::-1]):
        at = 0
        while at < len(row):
            if number % 3 == 0 and len(row) - at >= 7:  # 7 indexes as they are
                part = row[at : at + 7]
                packed = _packed(part[None], 4).tobytes() if nibbles else part.tobytes()
                made += bytes((0, 7)) + packed + bytes(len(packed) % 2)
                at += 7
                continue
            run = 1
            while at + run < len(row) and row[at + run] == row[at] and run < 255:
                run += 1
            made += bytes((run, int(row[at]) * 17 if nibbles else int(row[at])))
            at += run
        made += b"\x00\x00"
    return made + b"\x00\x01"


def _cases() -> Iterator[tuple[str, bytes, Pixels, Pixels | None]]:
    for header in HEADERS:
        for bits in (1, 2, 4, 8):
            index = (LIGHT >> (8 - bits)).astype(np.uint8)
            colours = PALETTE[: 1 << bits]
            data = bmp(_packed(index, bits), bits, header=header, palette=colours)
            yield f"{bits} bits, header {header}", data, colours[index], None
        rows = RGB[..., ::-1].reshape(HEIGHT, -1)
        yield f"24 bits, header {header}", bmp(rows, 24, header=header), RGB, None
    for top_down in (False, True):
        unused = np.dstack((RGB[..., ::-1], np.full_like(LIGHT, 9))).reshape(HEIGHT, -1)
        data = bmp(unused, 32, top_down=top_down)
        yield f"32 bits with a byte unused, top down {top_down}", data, RGB, None
    for name, (bits, masks) in FIELDS.items():
        rows, colour, alpha = _in_fields(masks, bits)
        for header in (40, 52, 56, 108, 124):
            if header in {40, 52} and masks[3]:
                continue
            told = masks[: 3 if header in {40, 52} else 4]
            data = bmp(rows, bits, header=header, compression=3, masks=told)
            yield f"{name}, header {header}", data, colour, alpha if masks[3] else None
        if masks[3]:
            data = bmp(rows, bits, compression=6, masks=masks)
            yield f"{name}, alpha fields", data, colour, alpha
    for bits, compression in ((8, 1), (4, 2)):
        index = (LIGHT >> (8 - bits)).astype(np.uint8)
        pixels = _run_lengths(index, nibbles=bits == 4)
        colours = PALETTE[: 1 << bits]
        data = bmp(index, bits, compression=compression, palette=colours, pixels=pixels)
        yield f"run lengths of {bits} bits", data, colours[index], None


CASES = {name: (data, colour, alpha) for name, data, colour, alpha in _cases()}


def _prepared(data: bytes, folder: Path) -> Prepared:
    (folder / "upload").write_bytes(data)
    return prepare(folder / "upload", folder, INPUT_NAMES, 10_000_000)


@pytest.mark.parametrize("name", CASES)
def test_comes_out_right(name: str, tmp_path: Path) -> None:
    data, colour, alpha = CASES[name]
    prepared = _prepared(data, tmp_path)
    found = pixels_of(prepared.source)
    shown = np.ones(LIGHT.shape, bool) if alpha is None else alpha > 0
    assert (found[shown] == colour[shown]).all()
    assert (prepared.alpha is None) == (alpha is None)
    if prepared.alpha is not None:
        assert (pixels_of(prepared.alpha)[..., 0] == alpha).all()


@pytest.mark.parametrize("header", [56, 108, 124])
def test_an_alpha_channel_of_nothing_but_zeros_is_unused(header: int, tmp_path: Path) -> None:
    rows = np.dstack((RGB[..., ::-1], np.zeros_like(LIGHT))).reshape(HEIGHT, -1)
    data = bmp(rows, 32, header=header, compression=3, masks=FIELDS["argb"][1])
    prepared = _prepared(data, tmp_path)
    assert prepared.alpha is None
    assert (pixels_of(prepared.source) == RGB).all()


def test_the_specimen_is_opaque(tmp_path: Path) -> None:
    prepared = _prepared((DATA / "faults" / "v5_alpha_zero.bmp").read_bytes(), tmp_path)
    assert prepared.alpha is None
    with Image.open(DATA / "faults" / "v5_alpha_zero.right.png") as image:
        wanted = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels_of(prepared.source) - wanted).max() <= 1


PLAIN = bmp(RGB[..., ::-1].reshape(HEIGHT, -1), 24)
REFUSALS = {
    "a PNG inside": bmp(LIGHT, 0, compression=5), "a JPEG inside": bmp(LIGHT, 0, compression=4),
    "Huffman coding": bmp(LIGHT, 1, header=64, compression=3),
    "run lengths of 24 bits": bmp(LIGHT, 24, header=64, compression=4),
    "compression 11": bmp(LIGHT, 32, compression=11),
    "5 bits a pixel": bmp(LIGHT, 5),
    "no palette": bmp(LIGHT, 8)[:54],
    "bit fields have gaps": bmp(LIGHT, 32, compression=3, masks=(0xF0F, 0xFF0000, 0xFF000000)),
    "in row 1 of 21": PLAIN[: 54 + 111],
    "header has 66 bytes": PLAIN[:14] + b"\x42" + PLAIN[15:],
    "its width is -37": PLAIN[:18] + struct.pack("<i", -37) + PLAIN[22:],
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSALS)
def test_what_is_wrong_is_told_before_anything_is_decoded(words: str, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(REFUSALS[words])
    with pytest.raises(UnusablePictureError) as caught:
        open_picture(tmp_path / "upload", INPUT_NAMES, 10_000_000)
    assert words in caught.value.message


def test_padding_of_the_last_row_may_be_missing(tmp_path: Path) -> None:
    assert WIDTH * 3 % 4
    assert (pixels_of(_prepared(PLAIN[:-1], tmp_path).source) == RGB).all()


def test_run_lengths_that_break_off_name_the_row(tmp_path: Path) -> None:
    data = CASES["run lengths of 8 bits"][0]
    with pytest.raises(UnusablePictureError, match=r"cut off .*in row \d+ of 21"):
        _prepared(data[:-200], tmp_path)
