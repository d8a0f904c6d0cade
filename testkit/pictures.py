"""Files that common encoders do not write: PNGs of any kind, colour profiles, EXIF blocks."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
PNG_MARK = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
          (1, 0, 2, 1))  # fmt: skip
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, depth: int, colour_type: int, interlaced: int = 0) -> bytes:
    """Return a PNG's signature and IHDR chunk."""
    body = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    return PNG_MARK + chunk(b"IHDR", body)


def png(
    samples: NDArray[Any],
    depth: int,
    *,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
    palette: bool = False,
) -> bytes:
    """Return a PNG of ``samples``, rows × columns × channels, with ``depth`` bits each.

    ``before`` and ``after`` are chunks to put before and after the pixels.
    """
    height, width, channels = samples.shape
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(
        b"\x00" + _packed(row, depth)
        for top, left, down, across in passes
        for row in samples[top::down, left::across]
        if row.size
    )
    kind = 3 if palette else _COLOUR_TYPE[channels]
    start = header(width, height, depth, kind, int(interlaced)) + before
    return start + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def _packed(row: NDArray[Any], depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def icc_chunk(profile: bytes) -> bytes:
    """Return an iCCP chunk."""
    return chunk(b"iCCP", b"profile\x00\x00" + zlib.compress(profile))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return ``image`` as a file of Pillow's format ``kind``."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int = 1, *, thumbnail: bool = False) -> bytes:
    """Return an EXIF block as cameras write it; its sizes do not match the picture."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "Maker"
    tags[0x0100], tags[0x0101] = 4000, 3000
    tags[0x8769] = {0xA002: 4000, 0xA003: 3000, 0x9003: "2024:05:06 07:08:09"}
    tags[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    block = tags.tobytes()
    if not thumbnail:
        return block
    # A second directory after the first: a JPEG thumbnail.
    tiff = bytearray(block.removeprefix(b"Exif\x00\x00"))
    order = "<" if tiff[:2] == b"II" else ">"
    first = struct.unpack_from(order + "I", tiff, 4)[0]
    count = struct.unpack_from(order + "H", tiff, first)[0]
    struct.pack_into(order + "I", tiff, first + 2 + 12 * count, len(tiff))
    picture = encoded(Image.new("RGB", (16, 12), "red"), "JPEG")
    entries = [(0x0103, 3, 1, 6 if order == "<" else 6 << 16), (0x0201, 4, 1, len(tiff) + 42),
               (0x0202, 4, 1, len(picture))]  # fmt: skip
    tiff += struct.pack(order + "H", 3)
    for entry in entries:
        tiff += struct.pack(order + "HHII", *entry)
    tiff += struct.pack(order + "I", 0)
    return b"Exif\x00\x00" + bytes(tiff) + picture


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))


def _profile(device: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\x00" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\x00", **tags}
    tags.setdefault(b"wtpt", b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249))
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"test", 0x02400000, device, space, pcs)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += _fixed(0.9642, 1, 0.8249) + bytes(48)
    return head[:128].ljust(128, b"\x00") + table + data


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(gamma: float, primaries: Sequence[tuple[float, float, float]]) -> bytes:
    """Return an RGB profile; ``primaries``: XYZ of red, green and blue under D50."""
    tags: dict[bytes, bytes] = {}
    for name, colour in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[name + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*colour)
        tags[name + b"TRC"] = _gamma(gamma)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


# Adobe RGB (1998), primaries adapted to D50
WIDE = rgb_profile(
    2.2, ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
)
# sRGB primaries, linear
LINEAR = rgb_profile(
    1.0, ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
)
GREY = _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(1.5)})


def _cmyk_profile() -> bytes:
    """Return a printing profile with 16 grid points: plausible inks, a black not quite black."""
    corners = b""
    for cyan, magenta, yellow, black in product((0, 1), repeat=4):
        share = (1 - 0.9 * black) * (1 - 0.35 * cyan) * (1 - 0.45 * magenta) * (1 - 0.08 * yellow)
        a = 128 + (-35 * cyan + 70 * magenta - 5 * yellow) * (1 - black)
        b = 128 + (-45 * cyan - 5 * magenta + 88 * yellow) * (1 - black)
        corners += bytes((round(255 * share), max(0, round(a)), max(0, min(255, round(b)))))
    ramp = bytes(range(256))
    body = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": body + ramp * 4 + corners + ramp * 3})


CMYK = _cmyk_profile()


def _scanner_profile() -> bytes:
    """A scanner's RGB profile: a table to Lab (ICC.1, lut8Type), and none back."""
    corners = bytearray()
    for red, green, blue in product((0, 1), repeat=3):
        lightness = 0.3 * red + 0.59 * green + 0.11 * blue
        a = 128 + 70 * (red - green)
        b = 128 + 70 * ((red + green) / 2 - blue)
        corners += bytes((round(255 * lightness), round(a), round(b)))
    ramp = bytes(range(256))
    body = b"mft1" + bytes(4) + bytes((3, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"scnr", b"RGB ", b"Lab ", {b"A2B0": body + ramp * 3 + corners + ramp * 3})


SCANNER = _scanner_profile()


def xyb(rgb: Pixels) -> Pixels:
    """Return sRGB pixels in a space made as XYB is, which `XYB` describes."""
    light = rgb / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    long, middle, short = np.moveaxis(np.cbrt(light @ np.array(_CONES).T), 2, 0)
    made = np.stack(((long - middle) / 0.2 + 0.5, (long + middle - 0.1) / 1.8, short), axis=2)
    levels: Pixels = np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)
    return levels


_CONES = ((0.3, 0.622, 0.078), (0.23, 0.692, 0.078), (0.243, 0.205, 0.552))


def _xyb_profile() -> bytes:
    """Tables alone (ICC.1, lutAToBType): affine, then cubed, then a matrix to XYZ."""
    corners = b""
    for x, y, b in product((0, 1), repeat=3):
        values = (0.9 * y + 0.1 * x, 0.9 * y + 0.1 * (1 - x), float(b))
        corners += struct.pack(">3H", *(round(65535 * v) for v in values))
    grid = bytes((2, 2, 2)) + bytes(13) + bytes((2, 0, 0, 0)) + corners
    same = b"para" + bytes(8) + _fixed(1)
    cube = b"para" + bytes(8) + _fixed(3)
    srgb = np.array(((0.4361, 0.3851, 0.1431), (0.2225, 0.7169, 0.0606), (0.0139, 0.0971, 0.7141)))
    matrix = srgb @ np.linalg.inv(np.array(_CONES)) * (32768 / 65535)
    table = _fixed(*matrix.ravel(), 0, 0, 0)
    parts = (same * 3, table, cube * 3, grid, same * 3)
    offsets, start = [], 32
    for part in parts:
        offsets.append(start)
        start += len(part)
    head = b"mAB " + bytes(4) + bytes((3, 3, 0, 0)) + struct.pack(">5I", *offsets)
    made = _profile(b"mntr", b"RGB ", b"XYZ ", {b"A2B0": head + b"".join(parts)})
    return made[:8] + b"\x04\x20\0\0" + made[12:]  # the type is one of version 4


XYB = _xyb_profile()


def mpo(kind: int) -> bytes:
    """Return an MPO file: a JPEG followed by a second picture of the MP type ``kind``."""
    first, second = (Image.effect_noise((64, 48), 30 + 9 * n).convert("RGB") for n in (0, 1))
    data = bytearray(encoded(first, "MPO", save_all=True, append_images=[second]))
    # The MP entry of the second picture: its attributes hold the type in the low 24 bits.
    at = data.index(b"MPF\x00") + 4
    order = "<" if data[at : at + 2] == b"II" else ">"
    count = struct.unpack_from(order + "H", data, at + 8)[0]
    for entry in range(count):
        place = at + 10 + 12 * entry
        if struct.unpack_from(order + "H", data, place)[0] == 0xB002:
            table = at + struct.unpack_from(order + "I", data, place + 8)[0]
            struct.pack_into(order + "I", data, table + 16, kind)
    return bytes(data)
