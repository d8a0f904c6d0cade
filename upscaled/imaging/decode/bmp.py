"""BMP files: headers of Windows and OS/2, palettes, bit fields and run lengths.

Fields are those of BITMAPV5HEADER and its forerunners (Microsoft's "Bitmap Header Types").
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from upscaled.formats import BMP
from upscaled.imaging.decode.decoded import Decoded
from upscaled.imaging.decode.refusals import broken, cut_off, unsupported
from upscaled.imaging.raw import Pixels, strips
from upscaled.pictures import Size

_FILE_HEADER_BYTES = 14
_OS2, _INFO = 12, 40
_WINDOWS = frozenset({40, 52, 56, 108, 124})
_LARGEST_HEADER = 124
_RGB, _RLE8, _RLE4, _FIELDS, _JPEG, _PNG, _ALPHA_FIELDS = range(7)
_OTHER = {_JPEG: "a JPEG inside", _PNG: "a PNG inside"}
_OS2_OTHER = {_FIELDS: "Huffman coding", _JPEG: "run lengths of 24 bits"}
_FIELDS_16 = (0x7C00, 0x03E0, 0x001F, 0)
_FIELDS_32 = (0xFF0000, 0xFF00, 0xFF, 0)
_EMBEDDED = 0x4D424544  # "MBED"
_METRES_PER_INCH = 0.0254
_PROFILE_BYTES = 8 << 20


@dataclass(frozen=True)
class BmpPicture:
    """A BMP file whose header was read."""

    path: Path
    size: Size
    depth: int
    """Bits per sample after decoding: 8."""
    bits: int
    """Bits per pixel."""
    bottom_up: bool
    compression: int
    fields: tuple[int, int, int, int]
    """Bits of red, green, blue and alpha in a pixel; 0: none."""
    palette: Pixels
    """Colours × 3, in RGB."""
    offset: int
    """Of the pixels."""
    icc: bytes
    info: dict[str, Any]
    lost: tuple[str, ...] = ()
    exif: bytes = b""
    orientation: int = 1
    mode: str = "RGB"

    @property
    def has_alpha(self) -> bool:
        """Whether it can have transparent pixels."""
        return self.bits > 8 and self.fields[3] != 0

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def decode(self) -> Decoded:
        """Return the pixels.

        Raises:
            UnusablePictureError: the file is cut off or broken.
            MemoryError: the picture does not fit.
        """
        width, height = self.size.width, self.size.height
        made = np.empty((height, width, 3), np.uint8)
        alpha = np.empty((height, width), np.uint8) if self.has_alpha else None
        indexes = self._run_lengths() if self.compression in {_RLE8, _RLE4} else None
        for top, bottom in strips(height, 8 * width):
            rows = self._rows(top, bottom) if indexes is None else indexes[top:bottom]
            if self.bits == 24:
                made[top:bottom] = rows[..., ::-1]
            elif self.bits <= 8:
                made[top:bottom] = self.palette[np.minimum(rows, len(self.palette) - 1)]
            else:
                for channel, mask in enumerate(self.fields[:3]):
                    made[top:bottom, :, channel] = _field(rows, mask)
                if alpha is not None:
                    alpha[top:bottom] = _field(rows, self.fields[3])
        if alpha is not None and not alpha.any():
            alpha = None  # most programs that write 32 bits leave the fourth byte zero
        return Decoded(Image.fromarray(made), alpha)

    def _rows(self, top: int, bottom: int) -> Any:
        """Return rows from top to bottom: palette indexes, pixel values, or BGR."""
        stride = _stride(self.size.width, self.bits)
        width, height, count = self.size.width, self.size.height, bottom - top
        first = height - bottom if self.bottom_up else top
        with self.path.open("rb") as file:
            file.seek(self.offset + first * stride)
            content = file.read(count * stride)
        # Padding of the last row in the file may be missing.
        raw = np.frombuffer(content.ljust(count * stride, b"\x00"), np.uint8)
        raw = raw.reshape(count, stride)
        if self.bottom_up:
            raw = raw[::-1]
        if self.bits == 24:
            return raw[:, : 3 * width].reshape(count, width, 3)
        if self.bits in {16, 32}:
            whole = np.ascontiguousarray(raw).view(f"<u{self.bits // 8}")
            return whole[:, :width]
        if self.bits == 8:
            return raw[:, :width]
        flat = np.unpackbits(raw, axis=1).reshape(count, -1, self.bits)[:, :width]
        return flat @ (1 << np.arange(self.bits - 1, -1, -1)).astype(np.uint8)

    def _run_lengths(self) -> Pixels:
        """Return the palette indexes of a run-length coded file; pixels it skips get index 0."""
        width, height = self.size.width, self.size.height
        made = np.zeros((height, width), np.uint8)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        nibbles = self.compression == _RLE4
        at = x = y = 0
        while y < height:
            if at + 2 > len(data):
                raise cut_off(BMP, f"in row {y + 1} of {height}")
            count, value = data[at], data[at + 1]
            at += 2
            if count:
                pair = (value >> 4, value & 15) if nibbles else (value, value)
                run = np.resize(np.array(pair, np.uint8), count)[: max(0, width - x)]
            elif value == 0:
                x, y = 0, y + 1
                continue
            elif value == 1:
                break
            elif value == 2:
                x, y, at = x + data[at], y + data[at + 1], at + 2
                continue
            else:
                length = (value + 1) // 2 if nibbles else value
                part = np.frombuffer(data[at : at + length], np.uint8)
                at += length + length % 2
                if nibbles:
                    part = np.stack((part >> 4, part & 15), axis=1).reshape(-1)
                run, count = part[:value][: max(0, width - x)], value
            made[y, x : x + len(run)] = run
            x += count
        return made[::-1] if self.bottom_up else made


def open_bmp(path: Path, check_size: Callable[[Size], None]) -> BmpPicture:
    """Read the header of the file at ``path``.

    Args:
        path: the file.
        check_size: raises an error for a size that is not accepted.

    Raises:
        UnusablePictureError: it is broken, cut off, or of a kind that is not supported.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(0)
        head = file.read(_FILE_HEADER_BYTES + _LARGEST_HEADER + 16)
        if len(head) < _FILE_HEADER_BYTES + _OS2:
            raise cut_off(BMP, "in its header")
        (offset,) = struct.unpack_from("<I", head, 10)
        (header_bytes,) = struct.unpack_from("<I", head, 14)
        os2 = header_bytes == _OS2 or (16 <= header_bytes <= 64 and header_bytes not in _WINDOWS)
        if not os2 and header_bytes not in _WINDOWS:
            raise broken(BMP, f"its header has {header_bytes} bytes")
        body = head[14 : 14 + header_bytes].ljust(_LARGEST_HEADER, b"\x00")
        form = "<4H" if header_bytes == _OS2 else "<iiHH"
        width, height, _, bits = struct.unpack_from(form, body, 4)
        if width < 0:
            raise broken(BMP, f"its width is {width}")
        size = Size(width, abs(height))
        check_size(size)
        values = (0,) * 5 if header_bytes == _OS2 else struct.unpack_from("<5I", body, 16)
        compression, _, across, down, colours = values
        _check(bits, compression, os2=os2)
        fields, table = _fields(head, bits, compression, header_bytes)
        palette = np.zeros((1, 3), np.uint8)
        if bits <= 8:
            entry = 3 if header_bytes == _OS2 else 4
            most = min(colours or 1 << bits, 256)
            room = (offset - table) // entry
            most = min(most, room) if room > 0 else most
            file.seek(table)
            palette = _palette(file.read(most * entry), entry)
        if compression not in {_RLE8, _RLE4}:
            _check_length(size, bits, offset, length)
        icc = _profile(file, body, header_bytes)
    info: dict[str, Any] = {}
    if across and down:
        info["dpi"] = (across * _METRES_PER_INCH, down * _METRES_PER_INCH)
    return BmpPicture(
        path, size, 8, bits, height > 0, compression, fields, palette, offset, icc, info
    )


def _fields(
    head: bytes, bits: int, compression: int, header_bytes: int
) -> tuple[tuple[int, int, int, int], int]:
    """Return the bit fields of a pixel, and where the palette begins."""
    after = _FILE_HEADER_BYTES + header_bytes
    if compression not in {_FIELDS, _ALPHA_FIELDS}:
        return (_FIELDS_16 if bits == 16 else _FIELDS_32), after
    count = 4 if header_bytes >= 56 or compression == _ALPHA_FIELDS else 3
    masks = struct.unpack_from(f"<{count}I", head, _FILE_HEADER_BYTES + _INFO)
    red, green, blue, alpha = (*masks, 0)[:4]
    if not (red or green or blue):
        raise broken(BMP, "its bit fields are empty")
    if any(mask and not _is_run(mask) for mask in masks):
        raise broken(BMP, "its bit fields have gaps")
    return (red, green, blue, alpha), after + (4 * count if header_bytes == _INFO else 0)


def _palette(table: bytes, entry: int) -> Pixels:
    if len(table) < entry or len(table) % entry:
        raise broken(BMP, "it has no palette")
    return np.frombuffer(table, np.uint8).reshape(-1, entry)[:, 2::-1]


def _check_length(size: Size, bits: int, offset: int, length: int) -> None:
    stride = _stride(size.width, bits)
    # Padding of the last row may be missing.
    if offset + stride * (size.height - 1) + -(-size.width * bits // 8) > length:
        row = max(0, length - offset) // stride + 1
        raise cut_off(BMP, f"in row {row} of {size.height}")


def _profile(file: BinaryIO, body: bytes, header_bytes: int) -> bytes:
    if header_bytes != _LARGEST_HEADER or struct.unpack_from("<I", body, 56)[0] != _EMBEDDED:
        return b""
    start, count = struct.unpack_from("<II", body, 112)
    file.seek(_FILE_HEADER_BYTES + start)
    return file.read(min(count, _PROFILE_BYTES))


def _check(bits: int, compression: int, *, os2: bool) -> None:
    if os2 and compression in _OS2_OTHER:
        raise unsupported(BMP, _OS2_OTHER[compression])
    if compression in _OTHER:
        raise unsupported(BMP, _OTHER[compression])
    if compression > _ALPHA_FIELDS:
        raise unsupported(BMP, f"compression {compression}")
    if bits not in {1, 2, 4, 8, 16, 24, 32}:
        raise broken(BMP, f"{bits} bits a pixel")
    wrong = {_RLE8: bits != 8, _RLE4: bits != 4}.get(compression, False)
    if wrong or (compression in {_FIELDS, _ALPHA_FIELDS} and bits not in {16, 32}):
        raise broken(BMP, f"compression {compression} of {bits} bits a pixel")


def _stride(width: int, bits: int) -> int:
    return -(-width * bits // 32) * 4


def _is_run(mask: int) -> bool:
    lowest = mask & -mask
    return (mask // lowest + 1) & (mask // lowest) == 0


def _field(pixels: Any, mask: int) -> Pixels:
    """Return the bits of ``mask`` in pixels, scaled to 8 bits."""
    if mask == 0:
        return np.zeros(pixels.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    values = (pixels.astype(np.uint32) & np.uint32(mask)) >> np.uint32(shift)
    scaled: Pixels = np.rint(values * (255 / most)).astype(np.uint8)
    return scaled
