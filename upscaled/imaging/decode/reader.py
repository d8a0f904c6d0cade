"""Opening a picture: all that its header says, and the refusals that follow from it."""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, MpoImagePlugin, PngImagePlugin

from upscaled.errors import UnusablePictureError
from upscaled.formats import AVIF, PNG, TIFF, WEBP, PictureFormat
from upscaled.imaging.decode.refusals import broken, cut_off
from upscaled.imaging.decode.sniff import sniff
from upscaled.imaging.decode.structure import check_parts
from upscaled.imaging.decode.tiff.page import TiffPage, open_tiff
from upscaled.imaging.prepared import Probe
from upscaled.imaging.raw import Pixels
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
    """A picture whose header was read. A context manager that closes it."""

    image: Image.Image
    """Not decoded yet; of a TIFF, one pixel that stands for the picture until `load`."""
    format: PictureFormat
    orientation: int
    """EXIF orientation still to be applied, 1 to 8."""
    exif: bytes
    """A TIFF structure, without its ``Exif`` marker."""
    icc: bytes
    depth: int
    """Bits per sample in the file."""
    lost: list[str]
    grey_png: bool = False
    """A PNG whose colour type is grey, or grey and alpha."""
    page: TiffPage | None = None
    """Of a TIFF."""
    alpha: Pixels | None = None
    """Transparency that is not part of ``image``, rows × columns."""

    @property
    def one_channel(self) -> bool:
        """Its samples are grey, whatever a profile makes of them."""
        # Pillow has no 16-bit grey with alpha: it opens such PNGs as RGBA.
        return self.image.mode in _ONE_CHANNEL or self.grey_png

    @property
    def size(self) -> Size:
        """After orientation."""
        width, height = self.image.size
        if self.page is not None:
            width, height = self.page.size.width, self.page.size.height
        return Size(height, width) if self.orientation in _TURNED else Size(width, height)

    @property
    def has_alpha(self) -> bool:
        """It may hold transparent pixels."""
        if self.page is not None:
            return self.page.has_alpha
        return self.image.has_transparency_data

    def probe(self) -> Probe:
        """Return what the header promises."""
        return Probe(self.format.name, self.size, self.has_alpha)

    def load(self) -> None:
        """Decode the pixels.

        Raises:
            UnusablePictureError: a TIFF is broken.
            Exception: whatever Pillow's decoders raise about broken bytes.
        """
        if self.page is None:
            self.image.load()
            return
        decoded = self.page.decode()
        decoded.image.info, decoded.image.format = self.image.info, self.image.format
        self.image, self.alpha = decoded.image, decoded.alpha
        self.close()
        self.page = None

    def close(self) -> None:
        """Close the file."""
        self.image.close() if self.page is None else self.page.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_picture(path: Path, formats: Collection[str], max_pixels: int) -> Opened:
    """Read the header of the picture at ``path``. The caller closes it.

    Raises:
        NotAPictureError: it is of none of ``formats``.
        UnusablePictureError: broken, not supported, animated, of several pages, of too many
            pixels.
    """
    kind = sniff(path, formats)
    check_parts(path, kind)
    try:
        return _open_tiff(path, max_pixels) if kind is TIFF else _open(path, kind, max_pixels)
    except UnusablePictureError:
        raise
    except MemoryError:
        raise UnusablePictureError(
            "image decode failed: reading its header needs more memory than a picture may use."
        ) from None
    except Exception as error:  # decoders raise whatever a broken header leads to
        raise decoder_refusal(kind, error) from error


def _open(path: Path, kind: PictureFormat, max_pixels: int) -> Opened:
    if kind.opens_whole:
        _check_size(_webp_canvas(path), max_pixels)
    image: Image.Image = Image.open(path, formats=[kind.plugin])
    try:
        _check_size(Size(*image.size), max_pixels)
        lost: list[str] = []
        _refuse_series(image, lost)
        exif, icc = _kept_blocks(_exif(image, path), image.info.get("icc_profile") or b"", lost)
        orientation = _orientation(exif, lost)
        depth = _depth(path, kind)
        grey_png = kind is PNG and _first_bytes(path, 26)[25] in _PNG_GREY
    except BaseException:
        image.close()
        raise
    return Opened(image, kind, orientation, exif, icc, depth, lost, grey_png)


def _open_tiff(path: Path, max_pixels: int) -> Opened:
    page = open_tiff(path, lambda size: _check_size(size, max_pixels))
    try:
        lost = list(page.lost)
        try:
            exif = page.exif
        except Exception:  # broken EXIF in a good picture is common; it is told
            exif = b""
            lost.append("EXIF, which is broken")
        exif, icc = _kept_blocks(exif, page.icc, lost)
        image = Image.new(page.mode, (1, 1))
        image.format = TIFF.plugin
        image.info.update(page.info)
        orientation = page.orientation
    except BaseException:
        page.close()
        raise
    return Opened(image, TIFF, orientation, exif, icc, page.depth, lost, page=page)


def _kept_blocks(exif: bytes, icc: bytes, lost: list[str]) -> tuple[bytes, bytes]:
    for name, block in (("EXIF", exif), ("ICC profile", icc)):
        if len(block) > MAX_METADATA_BYTES:
            lost.append(f"{name} of {len(block)} bytes is too large to be kept")
    kept_exif, kept_icc = (b if len(b) <= MAX_METADATA_BYTES else b"" for b in (exif, icc))
    return kept_exif, kept_icc


def decoder_refusal(kind: PictureFormat, error: Exception) -> UnusablePictureError:
    """Return what is wrong with a file of format ``kind``, by what Pillow's decoder raised."""
    words = str(error).strip().rstrip(".")
    if isinstance(error, OSError) and "truncated" in words:
        return cut_off(kind)
    return broken(kind, "" if "cannot identify image file" in words else words)


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
    raise broken(WEBP, "its header")


def _refuse_series(image: Image.Image, lost: list[str]) -> None:
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


def _exif(image: Image.Image, path: Path) -> bytes:
    """Return the raw EXIF block, a TIFF structure, without its ``Exif`` marker."""
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


def _depth(path: Path, kind: PictureFormat) -> int:
    """Return the bits per sample in the file."""
    head = _first_bytes(path, 1 << 16)
    if kind is PNG:
        return head[24]
    if kind is AVIF:  # AV1 Image File Format, av1C: high_bitdepth and twelve_bit
        at = head.find(b"av1C")
        flags = head[at + 6] if 0 <= at < len(head) - 6 else 0
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return 8
