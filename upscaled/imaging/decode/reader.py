"""Opens a picture: reads its header and refuses what can't be upscaled."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, MpoImagePlugin, PngImagePlugin

from upscaled.errors import UnusablePictureError
from upscaled.formats import AVIF, BMP, JPEG, PNG, TIFF, WEBP, PictureFormat
from upscaled.imaging.decode.bmp import BmpPicture, open_bmp
from upscaled.imaging.decode.jpeg import (
    check_kind,
    has_end,
    has_profile_part,
    missing_scans,
    without_end,
)
from upscaled.imaging.decode.jpeg_damage import check_coded_pixels
from upscaled.imaging.decode.png import check_pixels, low_bytes, without
from upscaled.imaging.decode.png_structure import Dropped, read_chunks
from upscaled.imaging.decode.refusals import broken, cut_off
from upscaled.imaging.decode.sniff import sniff
from upscaled.imaging.decode.tiff.page import TiffPage, open_tiff
from upscaled.imaging.prepared import Probe
from upscaled.imaging.raw import Pixels
from upscaled.pictures import Size

# Sizes are checked here, against the configured limit and before decoding.
Image.MAX_IMAGE_PIXELS = None
# A truncated picture is refused.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Bytes that a compressed PNG chunk may unpack to: large enough for any real colour profile.
PngImagePlugin.MAX_TEXT_CHUNK = 4 << 20

MAX_METADATA_BYTES = 4 << 20
"""A larger profile or EXIF block is dropped; real ones are far smaller."""

_ORIENTATION = 0x0112
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height

# MP entry 0xB002: types of further pictures in a JPEG that make it a series (CIPA DC-007).
_MPO_SERIES = frozenset(
    {
        "Multi-Frame Image (Panorama)",
        "Multi-Frame Image: (Disparity)",
        "Multi-Frame Image: (Multi-Angle)",
    }
)


_ONE_CHANNEL = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"})
"""Pillow's modes without colour."""


@dataclass
class Opened:
    """A picture whose header was read. Use it as a context manager."""

    image: Image.Image
    """Not decoded yet; for a TIFF or BMP, a one-pixel placeholder until `load`."""
    format: PictureFormat
    orientation: int
    """EXIF orientation still to be applied, 1 to 8."""
    exif: bytes
    """A TIFF structure, without its ``Exif`` marker."""
    icc: bytes
    depth: int
    """Bits per sample in the file."""
    lost: list[str]
    path: Path
    coded_bytes: int = 0
    """Of a PNG: length of its decompressed pixels."""
    colours: int = 0
    """Of a PNG: how many its palette has."""
    dropped: Sequence[Dropped] = ()
    """Of a PNG: chunks that its decoder must not see."""
    grey_png: bool = False
    """A PNG whose colour type is grey, or grey and alpha."""
    page: TiffPage | BmpPicture | None = None
    """Set if one of our own decoders reads the file; None: Pillow decodes ``image``."""
    alpha: Pixels | None = None
    """Transparency that is not part of ``image``, rows × columns."""

    @property
    def one_channel(self) -> bool:
        """Whether its samples are grey, whatever a profile makes of them."""
        # Pillow has no 16-bit grey with alpha: it opens such PNGs as RGBA.
        return self.image.mode in _ONE_CHANNEL or self.grey_png

    @property
    def size(self) -> Size:
        """After orientation."""
        width, height = self.image.size
        if self.page is not None:
            width, height = self.page.size.width, self.page.size.height
        return Size(height, width) if self.orientation in TURNED else Size(width, height)

    @property
    def has_alpha(self) -> bool:
        """Whether it can have transparent pixels."""
        if self.page is not None:
            return self.page.has_alpha
        return self.image.has_transparency_data

    def probe(self) -> Probe:
        return Probe(self.format.name, self.size, self.has_alpha)

    def load(self) -> None:
        """Decode the pixels.

        Raises:
            UnusablePictureError: a TIFF or BMP is broken.
            Exception: whatever Pillow's decoders raise about broken bytes.
        """
        if self.page is None:
            self._load_with_pillow()
            return
        decoded = self.page.decode()
        decoded.image.info, decoded.image.format = self.image.info, self.image.format
        self.image, self.alpha = decoded.image, decoded.alpha
        self.close()
        self.page = None

    def _load_with_pillow(self) -> None:
        try:
            self.image.load()
        except OSError:
            whole = without_end(self.path) if self.format is JPEG else None
            if whole is None:
                raise
            whole.info, whole.format = self.image.info, self.image.format
            self.image.close()
            self.image = whole
        if self.format is PNG:
            check_pixels(self.path, self.coded_bytes)
            self._check_palette()
            self._apply_deep_key()
        elif self.format is JPEG:
            self._look_at_scans()

    def _look_at_scans(self) -> None:
        """Note what Pillow does not say about a JPEG."""
        content = self.path.read_bytes()
        if not has_end(content):
            self.lost.append("the end marker (FF D9), which the file lacks; all pixels are there")
            return
        if missing_scans(content):
            self.lost.append("details, since the file lacks its last scans")
        if note := check_coded_pixels(content):
            self.lost.append(note)

    def _check_palette(self) -> None:
        highest = self.image.getextrema()[1] if self.image.mode == "P" else 0
        if isinstance(highest, int | float) and highest >= max(self.colours, 1):
            raise broken(
                PNG,
                f"a pixel has colour {highest:g}, but the palette, chunk PLTE, ends at "
                f"{self.colours - 1}",
            )

    def _apply_deep_key(self) -> None:
        """Make the transparent colour of a picture with 16 bits a sample transparent (tRNS)."""
        key = self.image.info.get("transparency")
        if self.depth != 16 or not isinstance(key, tuple) or self.image.mode != "RGB":
            return
        with low_bytes(without(self.path, self.dropped)) as low:
            same = (np.asarray(self.image) == [sample >> 8 for sample in key]).all(axis=2)
            same &= (np.asarray(low) == [sample & 255 for sample in key]).all(axis=2)
        self.alpha = np.where(same, 0, 255).astype(np.uint8)

    def close(self) -> None:
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
    try:
        if kind in {TIFF, BMP}:
            return _open_ours(path, kind, max_pixels)
        return _open(path, kind, max_pixels)
    except UnusablePictureError:
        raise
    except MemoryError:
        raise UnusablePictureError(
            "image decode failed: reading its header needs more memory than a picture may use."
        ) from None
    except Exception as error:  # decoders raise anything for a broken header
        raise decoder_refusal(kind, error) from error


def _open(path: Path, kind: PictureFormat, max_pixels: int) -> Opened:
    if kind is WEBP:  # its decoder allocates the whole picture when it opens one
        _check_size(_webp_canvas(path), max_pixels)
        _check_webp_length(path)
    if kind is JPEG:
        check_kind(path)
    chunks = read_chunks(path, MAX_METADATA_BYTES) if kind is PNG else None
    dropped = chunks.dropped if chunks is not None else ()
    image: Image.Image = Image.open(without(path, dropped), formats=[kind.plugin])
    try:
        _check_size(Size(*image.size), max_pixels)
        lost = [chunk.lost for chunk in dropped if chunk.lost]
        if chunks is not None and not chunks.has_end:
            lost.append("the end marker (IEND), which the file lacks; all pixels are there")
        _refuse_series(image, lost)
        if chunks is not None:
            _refuse_frames(chunks.frames)
        block = image.info.get("exif") or b"" if chunks is None else chunks.exif
        while block.startswith(b"Exif\x00\x00"):
            block = block[6:]
        exif, icc = _kept_blocks(block, image.info.get("icc_profile") or b"", lost)
        opened = Opened(image, kind, _orientation(exif, lost), exif, icc, 8, lost, path)
        if chunks is not None:
            opened.depth, opened.grey_png = chunks.depth, chunks.grey
            opened.coded_bytes, opened.colours = chunks.coded_bytes, chunks.colours
            opened.dropped = dropped
            if chunks.has_profile and not image.info.get("icc_profile"):
                lost.append("ICC profile, which is broken")
            if chunks.has_late_profile:
                lost.append("ICC profile, which comes after the pixels")
        elif kind is JPEG and not icc and has_profile_part(path):
            lost.append("ICC profile, which is broken")
        elif kind is AVIF:
            opened.depth = _avif_depth(path)
    except BaseException:
        image.close()
        raise
    return opened


def _open_ours(path: Path, kind: PictureFormat, max_pixels: int) -> Opened:

    def check_size(size: Size) -> None:
        _check_size(size, max_pixels)

    page: TiffPage | BmpPicture = (
        open_tiff(path, check_size) if kind is TIFF else open_bmp(path, check_size)
    )
    try:
        lost = list(page.lost)
        try:
            exif = page.exif
        except Exception:  # broken EXIF in a good picture is common; it is reported
            exif = b""
            lost.append("EXIF, which is broken")
        exif, icc = _kept_blocks(exif, page.icc, lost)
        image = Image.new(page.mode, (1, 1))
        image.format = kind.plugin
        image.info.update(page.info)
        orientation = page.orientation
    except BaseException:
        page.close()
        raise
    return Opened(image, kind, orientation, exif, icc, page.depth, lost, path, page=page)


def _kept_blocks(exif: bytes, icc: bytes, lost: list[str]) -> tuple[bytes, bytes]:
    for name, block in (("EXIF", exif), ("ICC profile", icc)):
        if len(block) > MAX_METADATA_BYTES:
            lost.append(f"{name} of {len(block)} bytes is too large to be kept")
    kept_exif, kept_icc = (b if len(b) <= MAX_METADATA_BYTES else b"" for b in (exif, icc))
    return kept_exif, kept_icc


def decoder_refusal(kind: PictureFormat, error: Exception) -> UnusablePictureError:
    """Return the error for what Pillow's decoder raised about a file of format ``kind``."""
    words = str(error).strip().rstrip(".")
    if isinstance(error, OSError) and "truncated" in words:
        return cut_off(kind)
    if "data stream" in words or words.startswith("decoder error"):
        return broken(kind, "its coded pixels")
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


def _check_webp_length(path: Path) -> None:
    with path.open("rb") as file:
        told = int.from_bytes(file.read(8)[4:], "little") + 8
        length = file.seek(0, 2)
    if length < told:
        raise cut_off(WEBP, f"it has {length} of {told} bytes")


def _refuse_series(image: Image.Image, lost: list[str]) -> None:
    frames: int = getattr(image, "n_frames", 1)
    if isinstance(image, MpoImagePlugin.MpoImageFile):
        entries = (image.mpinfo or {}).get(0xB002, [])
        if any(entry["Attribute"]["MPType"] in _MPO_SERIES for entry in entries):
            raise UnusablePictureError(
                f"The file holds a series of {frames} pictures (MPO); send one picture."
            )
        lost.append("further pictures in the file (previews or gain maps)")
    else:
        _refuse_frames(frames)


def _refuse_frames(frames: int) -> None:
    if frames > 1:
        raise UnusablePictureError(f"The file is an animation of {frames} frames; send one frame.")


def _orientation(exif: bytes, lost: list[str]) -> int:
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(b"Exif\x00\x00" + exif)
        value = tags.get(_ORIENTATION, 1)
    except Exception:  # broken EXIF in a good picture is common; it is reported
        lost.append("EXIF, which is broken")
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _avif_depth(path: Path) -> int:
    """Return the bits per sample: av1C's high_bitdepth and twelve_bit (AV1 in ISOBMFF, 2.3)."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    at = head.find(b"av1C")
    flags = head[at + 6] if 0 <= at < len(head) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
