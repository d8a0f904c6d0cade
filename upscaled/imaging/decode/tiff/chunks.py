"""Decompresses the strips and tiles of a TIFF file.

libtiff, as bundled with Pillow, only decompresses. It gets the chunks as strips of a small
temporary file: as grey bytes, whatever the samples are, or with their own tags if the codec depends
on pixels (JPEG, CCITT). `upscaled.imaging.decode.tiff.samples` interprets the bytes, since Pillow
gets many kinds wrong.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from upscaled.formats import TIFF, WEBP
from upscaled.imaging.decode.refusals import broken, cut_off
from upscaled.imaging.decode.tiff.layout import CCITT, Compression, Layout, Photometric
from upscaled.imaging.raw import Pixels
from upscaled.pictures import Size

_BATCH_BYTES = 8 << 20
"""Bytes that chunks decompressed in one batch may have."""
_REVERSED = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)
_JPEG_TABLES, _T4_OPTIONS, _T6_OPTIONS, _SUBSAMPLING = 347, 292, 293, 530
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_BLACK_IS_ZERO = 1


def check_chunks(layout: Layout) -> None:
    """Check that every strip or tile is within the file.

    Raises:
        UnusablePictureError: one is missing or beyond the file's end.
    """
    count = layout.across * layout.down * layout.planes
    name, end = layout.chunk_name, layout.directory.file.length
    if len(layout.offsets) < count:
        raise broken(TIFF, f"it lists {len(layout.offsets)} {name}s of {count}")
    plain = layout.compression is Compression.NONE
    if not plain and len(layout.lengths) < count:
        raise broken(TIFF, f"it lists the lengths of {len(layout.lengths)} {name}s of {count}")
    for number in range(count):
        # Without compression the lengths follow from the size; those in the file are often wrong.
        length = _stored_length(layout, number) if plain else layout.lengths[number]
        if layout.offsets[number] + length > end:
            raise cut_off(TIFF, f"{_name(layout, number)} is not all there")


def chunks(layout: Layout) -> Iterator[tuple[int, Pixels]]:
    """Yield each chunk's number and its bytes.

    The bytes of a chunk are rows × bytes of a row, or rows × columns × samples if the codec
    depends on pixels.

    Raises:
        UnusablePictureError: one is broken; the sentence says which.
    """
    count = layout.across * layout.down * layout.planes
    row_bytes = chunk_row_bytes(layout)
    at_once = max(1, _BATCH_BYTES // max(1, row_bytes * _rows(layout, layout.chunk.height)))
    batch: list[int] = []
    for number in range(count):
        if batch and (len(batch) == at_once or _height(layout, number) != layout.chunk.height):
            yield from zip(batch, _decompressed(layout, batch), strict=True)
            batch = []
        batch.append(number)
        if _height(layout, number) != layout.chunk.height:
            yield from zip(batch, _decompressed(layout, batch), strict=True)
            batch = []
    if batch:
        yield from zip(batch, _decompressed(layout, batch), strict=True)


def chunk_row_bytes(layout: Layout) -> int:
    """Return the bytes of one row of a chunk; with subsampling, of one row of its units."""
    if layout.subsampled:
        across, down = layout.subsampling
        return -(-layout.chunk.width // across) * (across * down + 2)
    return -(-layout.chunk.width * layout.samples_per_chunk * layout.bits // 8)


def _height(layout: Layout, number: int) -> int:
    """Return the rows of pixels in a chunk."""
    if layout.tiled:
        return layout.chunk.height
    strip = number % layout.down
    return min(layout.chunk.height, layout.size.height - strip * layout.chunk.height)


def _rows(layout: Layout, height: int) -> int:
    """Return how many rows of bytes ``height`` rows of pixels are."""
    return -(-height // layout.subsampling[1]) if layout.subsampled else height


def _decompressed(layout: Layout, numbers: Sequence[int]) -> list[Pixels]:
    if layout.compression is Compression.NONE:
        return [_stored(layout, number) for number in numbers]
    if layout.compression is Compression.WEBP:
        return [_webp(layout, number) for number in numbers]
    coded = [_coded(layout, number) for number in numbers]
    height = _height(layout, numbers[0])
    try:
        return _through_libtiff(layout, coded, height)
    except (OSError, SyntaxError, ValueError) as error:
        if len(numbers) == 1:
            raise broken(TIFF, f"{_name(layout, numbers[0])} does not decompress") from error
    return [part for number in numbers for part in _decompressed(layout, [number])]


def _name(layout: Layout, number: int) -> str:
    count = layout.across * layout.down * layout.planes
    return f"{layout.chunk_name} {number + 1} of {count}"


def _stored_length(layout: Layout, number: int) -> int:
    return _rows(layout, _height(layout, number)) * chunk_row_bytes(layout)


def _stored(layout: Layout, number: int) -> Pixels:
    offset, length = layout.offsets[number], _stored_length(layout, number)
    content = layout.directory.file.read(offset, length, _name(layout, number))
    found = np.frombuffer(content, np.uint8).reshape(-1, chunk_row_bytes(layout))
    return _REVERSED[found] if layout.reversed_bits else found


def _coded(layout: Layout, number: int) -> bytes:
    length = layout.lengths[number]
    return layout.directory.file.read(layout.offsets[number], length, _name(layout, number))


def _webp(layout: Layout, number: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(_coded(layout, number)), formats=[WEBP.plugin]) as image:
            if Size(*image.size) != Size(layout.chunk.width, _height(layout, number)):
                raise broken(TIFF, f"{_name(layout, number)} has another size")
            return np.asarray(image.convert("RGBA" if layout.samples == 4 else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise broken(TIFF, f"{_name(layout, number)} does not decompress") from error


def _through_libtiff(layout: Layout, coded: Sequence[bytes], height: int) -> list[Pixels]:
    """Decompress chunks of the same size."""
    rows, width, bits, samples = _rows(layout, height), chunk_row_bytes(layout), 8, 1
    photometric, more = _BLACK_IS_ZERO, b""
    tags: dict[int, tuple[int, bytes]] = {}
    if layout.compression in CCITT:
        width, bits = layout.chunk.width, 1
    elif layout.compression is Compression.JPEG:
        width, samples = layout.chunk.width, layout.samples_per_chunk
        if samples > 1:
            colours = layout.photometric
            known = {3: {Photometric.RGB, Photometric.YCBCR}, 4: {Photometric.SEPARATED}}
            plain = Photometric.RGB if samples == 3 else Photometric.SEPARATED
            photometric = colours if colours in known[samples] else plain
    for tag in (_JPEG_TABLES, _T4_OPTIONS, _T6_OPTIONS, _SUBSAMPLING):
        value = layout.directory.raw(tag)
        if not value:
            continue
        if tag == _JPEG_TABLES:
            tags[tag] = (_UNDEFINED, value)
        elif tag == _SUBSAMPLING:
            tags[tag] = (_SHORT, struct.pack("<2H", *layout.subsampling))
        else:
            tags[tag] = (_LONG, struct.pack("<I", layout.directory.integer(tag, 0)))
    if layout.reversed_bits:
        tags[266] = (_SHORT, struct.pack("<H", 2))
    numbers = {
        256: width,
        257: rows * len(coded),
        259: layout.compression,
        262: photometric,
        277: samples,
        278: rows,
        284: 1,
    }
    tags.update({tag: (_LONG, struct.pack("<I", number)) for tag, number in numbers.items()})
    tags[258] = (_SHORT, struct.pack(f"<{samples}H", *[bits] * samples))
    with Image.open(io.BytesIO(_file(tags, coded) + more), formats=[TIFF.plugin]) as image:
        image.load()
        whole = np.asarray(image)
    if bits == 1:
        whole = whole.astype(np.uint8)
    shape = (len(coded), rows, width) if samples == 1 else (len(coded), rows, width, samples)
    return list(whole.reshape(shape))


def _file(tags: dict[int, tuple[int, bytes]], coded: Sequence[bytes]) -> bytes:
    """Return a little-endian TIFF file with ``coded`` as its strips."""
    sizes = {_SHORT: 2, _LONG: 4, _UNDEFINED: 1}
    lengths = [len(part) for part in coded]
    table = {**tags, 273: (_LONG, bytes(4 * len(coded))), 279: (_LONG, bytes(4 * len(coded)))}
    table[279] = (_LONG, struct.pack(f"<{len(coded)}I", *lengths))
    start = 8 + 2 + 12 * len(table) + 4
    pixels = start + sum(len(value) for _, value in table.values() if len(value) > 4)
    starts = np.cumsum([pixels, *lengths[:-1]])
    table[273] = (_LONG, struct.pack(f"<{len(coded)}I", *map(int, starts)))
    entries, values = [], []
    for tag in sorted(table):
        type_, value = table[tag]
        place = value.ljust(4, b"\x00")
        if len(value) > 4:
            place = struct.pack("<I", start)
            values.append(value)
            start += len(value)
        entries.append(struct.pack("<HHI", tag, type_, len(value) // sizes[type_]) + place)
    head = b"II*\x00" + struct.pack("<IH", 8, len(table))
    return b"".join((head, *entries, bytes(4), *values, *coded))
