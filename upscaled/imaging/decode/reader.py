"""Opening a picture: all that its header says, and the refusals that follow from it."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, MpoImagePlugin, PngImagePlugin, TiffImagePlugin

from upscaled.errors import UnusablePictureError
from upscaled.formats import AVIF, PNG, TIFF, PictureFormat
from upscaled.imaging.decode.sniff import sniff
from upscaled.imaging.records import Probe
from upscaled.pictures import Size

# Sizes are checked here, against the configured limit and before decoding.
Image.MAX_IMAGE_PIXELS = None
# Half a picture is no picture.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Bytes that a compressed PNG chunk may unpack to: large enough for any real colour profile.
PngImagePlugin.MAX_TEXT_CHUNK = 4 << 20

MAX_METADATA_BYTES = 4 << 20
"""A profile or EXIF block above this is left behind; real ones are far smaller."""

_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height

# TIFF tags
_NEW_SUBFILE_TYPE = 254
_REDUCED_RESOLUTION = 1  # bit of NewSubfileType
_BITS_PER_SAMPLE = 258
_DNG_VERSION = 50706
_MAX_TIFF_PAGES = 64

# MP entry 0xB002: types of further pictures in a JPEG that make it a series (CIPA DC-007).
_MPO_SERIES = frozenset(
    {
        "Multi-Frame Image (Panorama)",
        "Multi-Frame Image: (Disparity)",
        "Multi-Frame Image: (Multi-Angle)",
    }
)

_MAX_PNG_CHUNKS = 1_000_000


_ONE_CHANNEL = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"})
"""Pillow's modes without colour."""
_PNG_GREY = frozenset({0, 4})
"""Colour types (PNG specification, 11.2.1)."""


@dataclass
class Opened:
    """A picture whose header was read; ``image`` is not decoded yet."""

    image: Image.Image
    format: PictureFormat
    orientation: int
    """EXIF orientation still to be applied, 1 to 8."""
    exif: bytes
    icc: bytes
    depth: int
    """Bits per sample in the file."""
    lost: list[str]
    grey_png: bool = False
    """A PNG whose colour type is grey, or grey and alpha."""

    @property
    def one_channel(self) -> bool:
        """Its samples are grey, whatever a profile makes of them."""
        # Pillow has no 16-bit grey with alpha: it opens such PNGs as RGBA.
        return self.image.mode in _ONE_CHANNEL or self.grey_png

    @property
    def size(self) -> Size:
        """After orientation."""
        width, height = self.image.size
        return Size(height, width) if self.orientation in _TURNED else Size(width, height)

    @property
    def has_alpha(self) -> bool:
        """It may hold transparent pixels."""
        return self.image.has_transparency_data

    def probe(self) -> Probe:
        """Return what the header promises."""
        return Probe(self.format.name, self.size, self.has_alpha)


def open_picture(path: Path, formats: Collection[str], max_pixels: int) -> Opened:
    """Read the header of the picture at ``path``. The caller closes ``image``.

    Raises:
        NotAPictureError: it is of none of ``formats``.
        UnusablePictureError: broken, animated, of several pages, of too many pixels.
    """
    kind = sniff(path, formats)
    if kind.opens_whole:
        _check_size(_webp_canvas(path), max_pixels)
    try:
        image: Image.Image = Image.open(path, formats=[kind.plugin])
    except MemoryError:
        raise UnusablePictureError(
            "image decode failed: reading its header needs more memory than a picture may use."
        ) from None
    except Exception as error:  # decoders raise whatever a broken header leads to
        raise UnusablePictureError(f"image decode failed: {broken(kind, error)}.") from error
    try:
        _check_size(Size(*image.size), max_pixels)
        lost: list[str] = []
        _refuse_series(image, lost)
        exif = _exif(image, path)
        icc = image.info.get("icc_profile") or b""
        for name, block in (("EXIF", exif), ("ICC profile", icc)):
            if len(block) > MAX_METADATA_BYTES:
                lost.append(f"{name} of {len(block)} bytes is too large to be kept")
        exif, icc = (b if len(b) <= MAX_METADATA_BYTES else b"" for b in (exif, icc))
        # Pillow turns TIFF pictures by itself.
        orientation = 1 if kind is TIFF else _orientation(exif, lost)
        depth = _depth(image, path, kind)
        grey_png = kind is PNG and _first_bytes(path, 26)[25] in _PNG_GREY
    except UnusablePictureError:
        image.close()
        raise
    except MemoryError:
        image.close()
        raise UnusablePictureError(
            "image decode failed: reading its header needs more memory than a picture may use."
        ) from None
    except Exception as error:
        image.close()
        raise UnusablePictureError(f"image decode failed: {broken(kind, error)}.") from error
    return Opened(image, kind, orientation, exif, icc, depth, lost, grey_png)


def broken(kind: PictureFormat, error: Exception) -> str:
    """Return what is wrong with a file of format ``kind``, by what its decoder raised."""
    words = str(error).strip().rstrip(".")
    if isinstance(error, OSError) and "truncated" in words:
        return f"the {kind.label} file is cut off before its end"
    if not words or "cannot identify image file" in words:
        return f"the {kind.label} file is broken"
    return f"the {kind.label} file is broken ({re.sub(r'[^ -~]', '?', words)[:120]})"


def _check_size(size: Size, max_pixels: int) -> None:
    if size.pixels == 0:
        raise UnusablePictureError(f"The picture is {size} pixels; it has nothing to enlarge.")
    if size.pixels > max_pixels:
        raise UnusablePictureError(
            f"The picture is {size}, {size.pixels / 1e6:.1f} megapixels; "
            f"at most {max_pixels / 1e6:g} are taken here."
        )


def _webp_canvas(path: Path) -> Size:
    """Return the canvas size from a WebP header (RFC 9649, section 2)."""
    with path.open("rb") as file:
        head = file.read(30)
    kind, body = head[12:16], head[20:]
    if len(head) == 30 and kind == b"VP8X":
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return Size(width, height)
    if len(head) == 30 and kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", body, 6))
        return Size(width, height)
    if len(head) >= 25 and kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    raise UnusablePictureError("image decode failed: the WebP file is cut off or broken.")


def _refuse_series(image: Image.Image, lost: list[str]) -> None:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_tiff_series(image, lost)
        return
    frames: int = getattr(image, "n_frames", 1)
    if isinstance(image, MpoImagePlugin.MpoImageFile):
        entries = (image.mpinfo or {}).get(0xB002, [])
        if any(entry["Attribute"]["MPType"] in _MPO_SERIES for entry in entries):
            raise UnusablePictureError(
                f"The file holds a series of {frames} pictures (MPO); send one picture."
            )
        lost.append("further pictures in the file (previews or gain maps)")
    elif frames > 1:
        raise UnusablePictureError(f"The file is an animation of {frames} frames; send one frame.")


def _refuse_tiff_series(image: TiffImagePlugin.TiffImageFile, lost: list[str]) -> None:
    tags = image.tag_v2
    if _DNG_VERSION in tags or tags.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED_RESOLUTION:
        raise UnusablePictureError(
            "The file is a camera raw, or starts with a preview of its picture; "
            "develop it and send a PNG, TIFF or JPEG."
        )
    for page in range(1, _MAX_TIFF_PAGES):
        try:
            image.seek(page)
        except EOFError:
            break
        if not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED_RESOLUTION:
            raise UnusablePictureError("The file has several pages; send one page.")
        if page == 1:
            lost.append("reduced copies of the picture in the file")
    image.seek(0)


def _exif(image: Image.Image, path: Path) -> bytes:
    """Return the raw EXIF block, a TIFF structure, without its ``Exif`` marker."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.getexif().tobytes().removeprefix(b"Exif\x00\x00")
    in_png = image.format == "PNG"
    block: bytes = _png_exif(path) if in_png else image.info.get("exif") or b""
    while block.startswith(b"Exif\x00\x00"):
        block = block[6:]
    return block


def _png_exif(path: Path) -> bytes:
    """Return a PNG's eXIf chunk, which may stand before or after the pixels."""
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(_MAX_PNG_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                break
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return file.read(min(length, MAX_METADATA_BYTES + 1))
            file.seek(length + 4, 1)
    return b""


def _orientation(exif: bytes, lost: list[str]) -> int:
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(b"Exif\x00\x00" + exif)
        value = tags.get(_ORIENTATION, 1)
    except Exception:  # broken EXIF in a good picture is common; it is told
        lost.append("EXIF, which is broken")
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _depth(image: Image.Image, path: Path, kind: PictureFormat) -> int:
    """Return the bits per sample in the file."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    head = _first_bytes(path, 1 << 16)
    if kind is PNG:
        return head[24]
    if kind is AVIF:  # AV1 Image File Format, av1C: high_bitdepth and twelve_bit
        at = head.find(b"av1C")
        flags = head[at + 6] if 0 <= at < len(head) - 6 else 0
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return 8
