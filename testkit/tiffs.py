"""TIFF files of any kind from known samples. The code shares nothing with the reader."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from testkit.tiff_codecs import lzw, packbits

Samples = NDArray[Any]

CODES = {
    "none": 1, "ccitt": 2, "g3": 3, "g4": 4, "lzw": 5, "jpeg": 7, "deflate": 8,
    "old deflate": 32946, "packbits": 32773, "lzma": 34925, "zstd": 50000, "webp": 50001,
}  # fmt: skip
PHOTOMETRICS = {
    "white is zero": 0, "black is zero": 1, "rgb": 2, "palette": 3, "separated": 5, "ycbcr": 6,
    "cielab": 8, "icclab": 9,
}  # fmt: skip
_KINDS = {"u": 1, "i": 2, "f": 3}
_FAXES = {"ccitt": "tiff_ccitt", "g3": "group3", "g4": "group4"}


@dataclass(frozen=True)
class Kind:
    """How a file stores its samples."""

    bits: int = 8
    sample: str = "u"
    """``u`` for unsigned, ``i`` for signed, ``f`` for floating-point."""
    photometric: str = "rgb"
    extras: tuple[int, ...] = ()
    planar: bool = False
    compression: str = "none"
    order: str = "<"
    predictor: int = 1
    tiled: bool = False
    big: bool = False
    reversed_bits: bool = False
    subsampling: tuple[int, int] = (1, 1)
    rows_per_strip: int = 8

    @property
    def name(self) -> str:
        """All of it, for a test's id."""
        words = [f"{self.sample}{self.bits}", self.photometric, *map(str, self.extras)]
        words += ["planar"] * self.planar + [self.compression]
        words += [f"predictor {self.predictor}"] * (self.predictor > 1)
        words += ["tiles"] * self.tiled + ["big"] * self.big + ["MM"] * (self.order == ">")
        words += ["reversed"] * self.reversed_bits
        words += ["{}x{}".format(*self.subsampling)] * (self.photometric == "ycbcr")
        return " ".join(words)


def tiff(
    samples: Samples, kind: Kind, *, tags: dict[int, tuple[int, bytes]] | None = None
) -> bytes:
    """Return a TIFF file of ``samples``, rows × columns × samples.

    ``tags`` are added: type and bytes of the value, in the file's byte order.
    """
    height, width, count = samples.shape
    order = kind.order
    parts = [_packed(part, kind) for part in _parts(samples, kind)]
    entries: dict[int, tuple[int, bytes]] = {}

    def put(tag: int, type_: int, *values: int) -> None:
        code = {3: "H", 4: "I"}[type_]
        entries[tag] = (type_, struct.pack(f"{order}{len(values)}{code}", *values))

    put(256, 4, width)
    put(257, 4, height)
    put(258, 3, *[kind.bits] * count)
    put(259, 3, CODES[kind.compression])
    put(262, 3, PHOTOMETRICS[kind.photometric])
    put(277, 3, count)
    put(284, 3, 2 if kind.planar else 1)
    if kind.sample != "u":
        put(339, 3, *[_KINDS[kind.sample]] * count)
    if kind.extras:
        put(338, 3, *kind.extras)
    if kind.predictor > 1:
        put(317, 3, kind.predictor)
    if kind.reversed_bits:
        put(266, 3, 2)
    if kind.photometric == "ycbcr":
        put(530, 3, *kind.subsampling)
    if kind.tiled:
        put(322, 3, 16)
        put(323, 3, 16)
    else:
        put(278, 3, kind.rows_per_strip)
    entries.update(tags or {})
    return _file(entries, parts, kind)


def _parts(samples: Samples, kind: Kind) -> Iterator[Samples]:
    """Yield strips or tiles, plane after plane if need be."""
    planes = [samples[..., n : n + 1] for n in range(samples.shape[2])]
    for plane in planes if kind.planar else [samples]:
        height, width, _ = plane.shape
        if not kind.tiled:
            for top in range(0, height, kind.rows_per_strip):
                yield plane[top : top + kind.rows_per_strip]
            continue
        for top in range(0, height, 16):
            for left in range(0, width, 16):
                tile = plane[top : top + 16, left : left + 16]
                edge = ((0, 16 - tile.shape[0]), (0, 16 - tile.shape[1]), (0, 0))
                yield np.pad(tile, edge, mode="edge")


def _packed(part: Samples, kind: Kind) -> bytes:
    coded = _compressed(part, kind)
    if kind.reversed_bits:
        coded = coded.translate(bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256)))
    return coded


def _compressed(part: Samples, kind: Kind) -> bytes:
    if kind.compression in {"jpeg", "webp", "ccitt", "g3", "g4"}:
        return _coded(part, kind)
    if kind.photometric == "ycbcr" and kind.subsampling != (1, 1):
        raw = _units(part, *kind.subsampling)
    elif kind.predictor == 3:
        raw = _float_steps(part)
    else:
        raw = _bits(_steps(part) if kind.predictor == 2 else part, kind)
    coders: dict[str, Callable[[bytes], bytes]] = {
        "none": bytes,
        "lzw": lzw,
        "deflate": zlib.compress,
        "old deflate": zlib.compress,
        "packbits": lambda data: packbits(data, len(data) // part.shape[0]),
        "lzma": lzma.compress,
        "zstd": _zstd,
    }
    return coders[kind.compression](raw)


def _steps(part: Samples) -> Samples:
    whole = part.view(f"u{part.dtype.itemsize}")
    return np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1])).astype(whole.dtype)


def _float_steps(part: Samples) -> bytes:
    """Technical note 3: bytes by their significance, then differences of them."""
    rows, width, count = part.shape
    size = part.dtype.itemsize
    planes = part.astype(f">f{size}").reshape(rows, width * count).view(np.uint8)
    planes = planes.reshape(rows, width * count, size).transpose(0, 2, 1).reshape(rows, -1)
    steps = planes.copy()
    steps[:, count:] -= planes[:, :-count]
    return steps.tobytes()


def _bits(part: Samples, kind: Kind) -> bytes:
    if kind.bits % 8 == 0:
        return part.astype(part.dtype.newbyteorder("<" if kind.order == "<" else ">")).tobytes()
    flat = part.reshape(part.shape[0], -1).astype(np.uint32)
    places = np.arange(kind.bits - 1, -1, -1, dtype=np.uint32)
    bits = (flat[..., None] >> places) & 1
    return np.packbits(bits.reshape(part.shape[0], -1).astype(np.uint8), axis=1).tobytes()


def _units(part: Samples, across: int, down: int) -> bytes:
    """YCbCr with shared colours: lights of a unit, then its two colour differences."""
    height, width, _ = part.shape
    edge = ((0, -height % down), (0, -width % across), (0, 0))
    whole = np.pad(part, edge, mode="edge")
    made = b""
    for top in range(0, whole.shape[0], down):
        for left in range(0, whole.shape[1], across):
            unit = whole[top : top + down, left : left + across]
            colour = np.rint(unit[..., 1:].reshape(-1, 2).mean(axis=0)).astype(np.uint8)
            made += unit[..., 0].tobytes() + colour.tobytes()
    return made


def _strip_of(image: Image.Image, **options: Any) -> bytes:
    """Return the only strip of what Pillow writes."""
    file = io.BytesIO()
    image.save(file, "TIFF", tiffinfo={278: image.height}, **options)
    with Image.open(file) as made:
        tags = made.tag_v2  # type: ignore[attr-defined]
        start, length = tags[273], tags[279]
    assert len(start) == 1
    return file.getvalue()[start[0] : start[0] + length[0]]


@cache
def _zstd(data: bytes) -> bytes:
    return _strip_of(Image.frombytes("L", (len(data), 1), data), compression="zstd")


def _coded(part: Samples, kind: Kind) -> bytes:
    file = io.BytesIO()
    grey = part.shape[2] == 1
    if kind.compression == "webp":
        Image.fromarray(part).save(file, "WEBP", lossless=True, exact=True)
        return file.getvalue()
    if kind.compression == "jpeg":
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[part.shape[2]]
        image = Image.fromarray(part[..., 0] if grey else part)
        if kind.photometric == "ycbcr":
            subsampling = {(1, 1): 0, (2, 1): 1, (2, 2): 2}[kind.subsampling]
            image.save(file, "JPEG", quality=97, subsampling=subsampling)
        elif mode == "CMYK":
            # Pillow writes Adobe's inverted inks; TIFF has them as they are.
            inverted = Image.frombytes("CMYK", image.size, (255 - part).tobytes())
            inverted.save(file, "JPEG", quality=97)
            return _without_app14(file.getvalue())
        else:
            image.save(file, "JPEG", quality=97, **({} if grey else {"keep_rgb": True}))
        return file.getvalue()
    black = Image.fromarray(part[..., 0].astype(bool))
    tags = {"compression": _FAXES[kind.compression]}
    return _strip_of(black, **tags)


def _without_app14(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", jpeg, at + 2)
    return jpeg[:at] + jpeg[at + 2 + length :]


def _file(entries: dict[int, tuple[int, bytes]], parts: list[bytes], kind: Kind) -> bytes:
    order, big = kind.order, kind.big
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 16: 8}
    place, width = ("Q", 8) if big else ("I", 4)
    type_ = 16 if big else 4
    where = {324: parts, 325: parts} if kind.tiled else {273: parts, 279: parts}
    offsets_tag, lengths_tag = where
    table = {**entries, offsets_tag: (type_, bytes(width * len(parts)))}
    lengths = struct.pack(f"{order}{len(parts)}{place}", *map(len, parts))
    table[lengths_tag] = (type_, lengths)
    start = 16 if big else 8
    position = start + (8 if big else 2) + (20 if big else 12) * len(table) + width
    longer = [tag for tag in sorted(table) if len(table[tag][1]) > width]
    at = position + sum(len(table[tag][1]) + len(table[tag][1]) % 2 for tag in longer)
    offsets = []
    for part in parts:
        offsets.append(at)
        at += len(part) + len(part) % 2
    table[offsets_tag] = (type_, struct.pack(f"{order}{len(parts)}{place}", *offsets))
    head = (b"II" if order == "<" else b"MM") + (
        struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    )
    made = head + struct.pack(order + ("Q" if big else "H"), len(table))
    values = b""
    for tag in sorted(table):
        kind_, value = table[tag]
        field = value.ljust(width, b"\x00")
        if len(value) > width:
            field = struct.pack(order + place, position + len(values))
            values += value + bytes(len(value) % 2)
        made += struct.pack(order + "HH" + place, tag, kind_, len(value) // sizes[kind_]) + field
    made += bytes(width) + values
    return made + b"".join(part + bytes(len(part) % 2) for part in parts)


def _levels(bits: int, sample: str) -> tuple[float, float]:
    if sample == "f":
        return 0.0, 1.0
    if sample == "i":
        return -float(1 << (bits - 1)), float((1 << (bits - 1)) - 1)
    return 0.0, float((1 << bits) - 1)


def quantised(values: NDArray[Any], bits: int, sample: str) -> Samples:
    """Return ``values`` from 0 to 1 as samples that use all their type's range."""
    low, high = _levels(bits, sample)
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    if sample == "f":
        return values.astype(f"f{size}")
    spread = low + values.astype(np.longdouble) * (np.longdouble(high) - low)
    made: Samples = np.clip(np.rint(spread), low, high).astype(f"{sample}{size}")
    return made


def eight_bits(samples: Samples, bits: int, sample: str) -> NDArray[np.uint8]:
    """Return what `quantised` samples look like in 8 bits."""
    low, high = _levels(bits, sample)
    values = (samples.astype(np.longdouble) - low) / (np.longdouble(high) - low)
    made: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return made


def kinds() -> Iterator[Kind]:
    """Yield the matrix: every kind that a TIFF writer in the wild may choose."""
    lossless = ("none", "lzw", "deflate", "packbits", "lzma", "zstd")
    depths = [(b, "u") for b in (1, 2, 4, 8, 12, 16, 32, 64)]
    depths += [(b, "i") for b in (8, 16, 32)] + [(b, "f") for b in (16, 32, 64)]
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("black is zero", ()), ("white is zero", ()), ("black is zero", (2,)), ("rgb", ()),
        ("rgb", (2,)), ("rgb", (0,)), ("rgb", (2, 0)), ("separated", ()), ("separated", (2,)),
    ]  # fmt: skip
    for bits, sample in depths:
        for photometric, extras in shapes:
            if photometric == "separated" and bits < 8:
                continue
            base = Kind(bits=bits, sample=sample, photometric=photometric, extras=extras)
            for number, compression in enumerate(lossless):
                # Planes, tiles, byte order and size of offsets in turn, so that each meets each.
                turn = number + bits + len(extras)
                single = base.photometric != "rgb" and base.photometric != "separated"
                planar = turn % 2 == 0 and not (single and not extras)
                yield replace(
                    base, compression=compression, planar=planar, tiled=turn % 3 == 0,
                    order="<>"[turn // 2 % 2], big=turn % 5 == 0,
                )  # fmt: skip
            yield replace(base, planar=bool(extras) or photometric == "rgb", order=">")
            if bits % 8 == 0:
                for compression in ("lzw", "deflate", "zstd"):
                    predictor = 3 if sample == "f" else 2
                    for planar in (False, True):
                        yield replace(
                            base, compression=compression, predictor=predictor,
                            planar=planar and (photometric == "rgb" or bool(extras)),
                            tiled=compression == "deflate", order="<>"[planar],
                        )  # fmt: skip
    for bits in (1, 2, 4, 8):
        for compression in lossless:
            yield Kind(bits=bits, photometric="palette", compression=compression)
            yield Kind(bits=bits, photometric="palette", compression=compression, tiled=True,
                       order=">")  # fmt: skip
    for compression in ("ccitt", "g3", "g4"):
        for photometric in ("black is zero", "white is zero"):
            yield Kind(bits=1, photometric=photometric, compression=compression)
            yield Kind(bits=1, photometric=photometric, compression=compression, order=">",
                       rows_per_strip=100)  # fmt: skip
    for lab in ("cielab", "icclab"):
        for bits in (8, 16):
            for compression in ("none", "lzw", "deflate"):
                for planar in (False, True):
                    yield Kind(bits=bits, photometric=lab, compression=compression, planar=planar,
                               order="<>"[planar], tiled=planar)  # fmt: skip
    for subsampling in ((1, 1), (2, 1), (2, 2), (4, 4), (1, 2)):
        for compression in ("none", "lzw", "packbits", "deflate"):
            yield Kind(photometric="ycbcr", subsampling=subsampling, compression=compression)
            yield Kind(photometric="ycbcr", subsampling=subsampling, compression=compression,
                       tiled=True, order=">")  # fmt: skip
    for tiled in (False, True):
        for subsampling in ((1, 1), (2, 1), (2, 2)):
            yield Kind(photometric="ycbcr", subsampling=subsampling, compression="jpeg",
                       tiled=tiled, rows_per_strip=16)  # fmt: skip
        for planar in (False, True):
            yield Kind(compression="jpeg", tiled=tiled, planar=planar)
        for photometric in ("black is zero", "white is zero", "separated"):
            yield Kind(photometric=photometric, compression="jpeg", tiled=tiled)
        for extras in ((), (2,)):
            yield Kind(compression="webp", extras=extras, tiled=tiled)
    for bits in (1, 4, 8, 16):
        for compression in ("none", "lzw", "g4"):
            if compression != "g4" or bits == 1:
                yield Kind(bits=bits, photometric="black is zero", compression=compression,
                           reversed_bits=True)  # fmt: skip
    for bits in (1, 2, 4, 12):
        yield Kind(bits=bits, predictor=2, compression="lzw")
