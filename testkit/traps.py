"""Files that the service must refuse, each with its error and words of the error's sentence."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from testkit import pictures as makers
from testkit.pictures import PNG_MARK, chunk, encoded, header, png
from testkit.zoo import CARD, COLOUR
from upscaled.errors import NotAPictureError, UnusablePictureError, UpscaledError


@dataclass(frozen=True)
class Trap:
    """A file, the error that it must cause, and words that the error's sentence must contain."""

    name: str
    data: bytes
    error: type[UpscaledError]
    words: str


def _unsupported_formats() -> Iterator[Trap]:
    """Yield files of unsupported formats."""
    for name, data, words in (
        ("text", b"This is not a picture at all, just words.\n", "plain text"),
        ("html", b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        ("svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        ("svg commented", b"<!-- made by hand --> <svg width='4'/>", "SVG"),
        ("comments without end", b"<!---->" * 580 + b"x", "plain text"),
        ("xml without end", b"<?xml" + b"?> <!-- -->" * 300 + b"x", "plain text"),
        ("gif", encoded(CARD.quantize(8), "GIF"), "GIF"),
        ("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "PDF"),
        ("psd", b"8BPS\x00\x01" + bytes(20), "Photoshop"),
        ("heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40), "HEIC"),
        ("jpeg xl", b"\xff\x0a\xfa\x1f\x01" + bytes(20), "JPEG XL"),
        ("jpeg 2000", encoded(CARD, "JPEG2000"), "JPEG 2000"),
        ("icon", encoded(CARD, "ICO", sizes=[(16, 16)]), "ICO"),
        ("netpbm", encoded(CARD, "PPM"), "Netpbm"),
        ("zip", b"PK\x03\x04\x14\x00" + bytes(30), "ZIP"),
        ("video", b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "video"),
        ("canon raw", b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(40), "Canon raw"),
        ("random bytes", np.random.default_rng(1).bytes(5000), "not a picture"),
        ("zeros", bytes(5000), "not a picture"),
        ("one byte", b"\x89", "not a picture"),
    ):
        yield Trap(name, data, NotAPictureError, words)
    yield Trap("empty", b"", UnusablePictureError, "empty")


def _damaged() -> Iterator[Trap]:
    """Yield damaged and incomplete pictures."""
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP"):
        data = encoded(CARD, kind)
        for share in (0.03, 0.6, 0.95):
            cut = data[: max(20, int(len(data) * share))]
            yield Trap(f"{kind} cut at {share:.0%}", cut, UnusablePictureError, "decode failed")
    rubbish = bytearray(png(COLOUR, 8))
    rubbish[60:90] = bytes(30)
    yield Trap("PNG with a hole", bytes(rubbish), UnusablePictureError, "decode failed")
    nothing = header(0, 10, 8, 2) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    yield Trap("PNG of no width", nothing, UnusablePictureError, "")
    yield Trap("PNG mark alone", PNG_MARK, UnusablePictureError, "decode failed")
    odd = np.full((4, 4), 7.5, np.float32)
    yield Trap("TIFF float 7.5", encoded(Image.fromarray(odd), "TIFF"), UnusablePictureError, "7.5")
    preview = encoded(CARD, "TIFF", tiffinfo={254: 1})
    yield Trap("TIFF of a preview", preview, UnusablePictureError, "camera raw")


def _series() -> Iterator[Trap]:
    """Yield files with more than one picture."""
    frames = [CARD, CARD.rotate(180), CARD.rotate(90)]
    more = {"save_all": True, "append_images": frames[1:]}
    for kind in ("PNG", "WEBP", "AVIF"):
        data = encoded(CARD, kind, **more)
        yield Trap(f"{kind} animated", data, UnusablePictureError, "3 frames")
    yield Trap("TIFF pages", encoded(CARD, "TIFF", **more), UnusablePictureError, "several pages")
    yield Trap("MPO stereo", makers.mpo(0x020002), UnusablePictureError, "series")
    many = chunk(b"acTL", struct.pack(">II", 100_000, 0))
    yield Trap("PNG of 100,000 frames", png(COLOUR, 8, before=many), UnusablePictureError, "frames")
    yield Trap("TIFF of 5,000 pages", _tiff_pages(5000), UnusablePictureError, "several pages")


def _tiff_pages(count: int) -> bytes:
    entries = ((256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8),
               (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1))  # fmt: skip
    size = 2 + 12 * len(entries) + 4
    data = b"II*\x00" + struct.pack("<I", 8)
    for page in range(count):
        following = 8 + size * (page + 1) if page < count - 1 else 0
        data += struct.pack("<H", len(entries))
        data += b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<I", following)
    return data


def _bombs() -> Iterator[Trap]:
    """Yield small files that need much memory or time."""
    rows = zlib.compress(bytes(3_000_000))
    huge = header(100_000, 100_000, 8, 2) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    yield Trap("PNG 100,000 x 100,000", huge, UnusablePictureError, "megapixels")
    jpeg = bytearray(encoded(CARD, "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", jpeg, at, 65_500, 65_500)
    yield Trap("JPEG 65,500 x 65,500", bytes(jpeg), UnusablePictureError, "megapixels")
    webp = bytearray(encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    bits = int.from_bytes(webp[21:25], "little") | 0x0FFFFFFF
    webp[21:25] = bits.to_bytes(4, "little")
    yield Trap("WEBP 16,384 x 16,384", bytes(webp), UnusablePictureError, "megapixels")
    bmp = bytearray(encoded(CARD, "BMP"))
    struct.pack_into("<ii", bmp, 18, 60_000, 60_000)
    yield Trap("BMP 60,000 x 60,000", bytes(bmp), UnusablePictureError, "megapixels")
    tiff = encoded(Image.new("1", (60_000, 60_000)), "TIFF", compression="group4")
    yield Trap("TIFF 60,000 x 60,000", tiff, UnusablePictureError, "megapixels")
    avif = bytearray(encoded(CARD, "AVIF"))
    at = avif.index(b"ispe") + 8
    struct.pack_into(">II", avif, at, 60_000, 60_000)
    yield Trap("AVIF 60,000 x 60,000", bytes(avif), UnusablePictureError, "")
    text = chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(300_000_000)))
    yield Trap("PNG text bomb", png(COLOUR, 8, before=text), UnusablePictureError, "too large")
    profile = chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(300_000_000)))
    yield Trap("PNG profile bomb", png(COLOUR, 8, before=profile), UnusablePictureError, "large")


def traps() -> Iterator[Trap]:
    """Yield every file that must be refused."""
    yield from _unsupported_formats()
    yield from _damaged()
    yield from _series()
    yield from _bombs()


def harmless_monsters() -> Iterator[tuple[str, bytes]]:
    """Yield pictures with broken or huge metadata: they must be accepted and lose the metadata."""
    looped = b"II*\x00" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8)
    yield "EXIF that points to itself", encoded(CARD, "JPEG", exif=b"Exif\x00\x00" + looped)
    wide = b"II*\x00" + struct.pack("<IH", 8, 5000)
    wide += b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(5000))
    yield "EXIF of 5,000 tags over one another", encoded(CARD, "PNG", exif=wide)
    block = io.BytesIO()
    block.write(b"II*\x00" + struct.pack("<I", 8) + bytes(6_000_000))
    yield "EXIF of 6 MB", encoded(CARD, "PNG", exif=block.getvalue())
    yield "profile of 5 MB", encoded(CARD, "JPEG", icc_profile=makers.WIDE + bytes(5_000_000))
