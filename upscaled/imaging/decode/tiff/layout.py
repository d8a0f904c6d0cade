"""How a TIFF page stores its samples; refuses what can't be decoded correctly.

The numbers are from TIFF 6.0, its two supplements and Adobe's technical notes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import IntEnum

from PIL import Image

from upscaled.formats import TIFF
from upscaled.imaging.decode.refusals import broken, unsupported
from upscaled.imaging.decode.tiff import directory as tags
from upscaled.imaging.decode.tiff.directory import Directory
from upscaled.pictures import Size


class Compression(IntEnum):
    """The supported compressions; `_OTHER_COMPRESSIONS` names the others."""

    NONE = 1
    CCITT_RLE = 2
    CCITT_G3 = 3
    CCITT_G4 = 4
    LZW = 5
    JPEG = 7
    DEFLATE = 8
    PACKBITS = 32773
    OLD_DEFLATE = 32946
    LZMA = 34925
    ZSTD = 50000
    WEBP = 50001


CCITT = frozenset({Compression.CCITT_RLE, Compression.CCITT_G3, Compression.CCITT_G4})
_OTHER_COMPRESSIONS = {
    6: "JPEG compression of the old kind (6)",
    9: "JBIG compression",
    10: "JBIG compression",
    32766: "NeXT compression",
    32771: "CCITT compression by words (32771)",
    32809: "ThunderScan compression",
    33003: "JPEG 2000 compression",
    33005: "JPEG 2000 compression",
    34661: "JBIG compression",
    34676: "LogLuv compression",
    34677: "LogLuv compression",
    34712: "JPEG 2000 compression",
    34887: "LERC compression",
    34892: "lossy JPEG compression of a camera raw",
    50002: "JPEG XL compression",
    52546: "JPEG XL compression",
}
_OPTIONAL_CODECS = {Compression.LZMA: "lzma", Compression.ZSTD: "zstd"}


class Photometric(IntEnum):
    """The meaning of the samples."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    SEPARATED = 5
    YCBCR = 6
    CIELAB = 8
    ICCLAB = 9


COLOURS = {
    Photometric.WHITE_IS_ZERO: 1,
    Photometric.BLACK_IS_ZERO: 1,
    Photometric.RGB: 3,
    Photometric.PALETTE: 1,
    Photometric.SEPARATED: 4,
    Photometric.YCBCR: 3,
    Photometric.CIELAB: 3,
    Photometric.ICCLAB: 3,
}
"""Samples that make up the colour of a pixel; any more are extra samples."""
_OTHER_PHOTOMETRICS = {
    4: "a transparency mask in place of a picture",
    10: "ITU Lab colours",
    32803: "the mosaic of a camera raw",
    32844: "LogL samples",
    32845: "LogLuv samples",
    34892: "the linear samples of a camera raw",
    51177: "a depth map in place of a picture",
}


class SampleKind(IntEnum):
    """How a sample's bits form a number."""

    UNSIGNED = 1
    SIGNED = 2
    FLOAT = 3


class Extra(IntEnum):
    """The meaning of an extra sample."""

    UNSPECIFIED = 0
    PREMULTIPLIED = 1
    ALPHA = 2


_FLOAT_BITS = frozenset({16, 32, 64})
_SIGNED_BITS = frozenset({8, 16, 32})
_UNSIGNED_BITS = frozenset({*range(1, 17), 32, 64})
_PREDICTED_BITS = frozenset({8, 16, 32, 64})
_NO_PREDICTOR, _HORIZONTAL, _FLOATING = 1, 2, 3
_PREDICTABLE = frozenset(
    {
        *(Compression.LZW, Compression.DEFLATE, Compression.OLD_DEFLATE),
        *(Compression.LZMA, Compression.ZSTD),
    }
)
_CONTIGUOUS, _SEPARATE = 1, 2
_UNSPECIFIED_FORMAT = 4
_CMYK_INKS = 1
_PALETTE = 320


@dataclass(frozen=True)
class Layout:
    """The storage of one page."""

    directory: Directory
    size: Size
    bits: int
    """Of every sample."""
    kind: SampleKind
    samples: int
    """Of every pixel."""
    extras: tuple[Extra | None, ...]
    """Meaning of the samples behind the colour; None if the file does not say."""
    planar: bool
    """Every sample has its own plane."""
    compression: Compression
    photometric: Photometric
    guessed: bool
    """The file does not say what its samples mean."""
    predictor: int
    reversed_bits: bool
    tiled: bool
    chunk: Size
    """Size of a strip or tile; the last strip may be lower, tiles are always complete."""
    subsampling: tuple[int, int]
    """Pixels across and down that share their colour differences."""
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def across(self) -> int:
        """Chunks side by side."""
        return -(-self.size.width // self.chunk.width)

    @property
    def down(self) -> int:
        """Chunks in a column."""
        return -(-self.size.height // self.chunk.height)

    @property
    def planes(self) -> int:
        """1, or as many as samples."""
        return self.samples if self.planar else 1

    @property
    def samples_per_chunk(self) -> int:
        """Samples of a pixel in one chunk."""
        return 1 if self.planar else self.samples

    @property
    def chunk_name(self) -> str:
        """``strip`` or ``tile``."""
        return "tile" if self.tiled else "strip"

    @property
    def subsampled(self) -> bool:
        """Whether colour differences are stored with the pixels that share them."""
        return (
            self.photometric is Photometric.YCBCR
            and self.compression is not Compression.JPEG
            and self.subsampling != (1, 1)
        )


def layout_of(page: Directory) -> Layout:
    """Return how ``page`` is stored.

    Raises:
        UnusablePictureError: it has something that we do not decode, or contradicts itself.
    """
    size = Size(page.integer(tags.WIDTH, 0), page.integer(tags.HEIGHT, 0))
    if not (tags.WIDTH in page.entries and tags.HEIGHT in page.entries):
        raise broken(TIFF, "it does not say how large it is")
    compression = _compression(page)
    samples = page.integer(277, 1)
    depths = set(page.integers(258)[:samples] or (1,))
    if not 1 <= samples <= 16:
        raise unsupported(TIFF, f"{samples} samples a pixel")
    if len(depths) > 1:
        raise unsupported(TIFF, f"samples of different depths ({_listed(depths)} bits)")
    bits = depths.pop()
    photometric, guessed = _photometric(page, compression, samples)
    kind = _kind(page, bits)
    planar = page.integer(284, _CONTIGUOUS) == _SEPARATE and samples > 1
    extras = _extras(page, photometric, samples)
    horizontal, vertical = (*page.integers(530), 2, 2)[:2] if 530 in page.entries else (2, 2)
    tiled = 324 in page.entries
    chunk = _chunk(page, size, tiled=tiled)
    offsets = page.integers(324 if tiled else 273)
    lengths = page.integers(325 if tiled else 279)
    layout = Layout(
        directory=page,
        size=size,
        bits=bits,
        kind=kind,
        samples=samples,
        extras=extras,
        planar=planar,
        compression=compression,
        photometric=photometric,
        guessed=guessed,
        predictor=page.integer(317, _NO_PREDICTOR) if compression in _PREDICTABLE else 1,
        reversed_bits=page.integer(266, 1) == 2,
        tiled=tiled,
        chunk=chunk,
        subsampling=(horizontal, vertical),
        offsets=offsets,
        lengths=lengths,
    )
    _check_codec(layout)
    return layout


def _compression(page: Directory) -> Compression:
    number = page.integer(259, Compression.NONE)
    try:
        compression = Compression(number)
    except ValueError:
        name = _OTHER_COMPRESSIONS.get(number, f"compression {number}")
        raise unsupported(TIFF, name) from None
    codec = _OPTIONAL_CODECS.get(compression)
    if codec is not None:
        try:  # not every build of libtiff has them
            Image.new("L", (1, 1)).save(io.BytesIO(), "TIFF", compression=codec)
        except OSError:
            raise unsupported(TIFF, f"{codec.upper()} compression") from None
    return compression


def _photometric(
    page: Directory, compression: Compression, samples: int
) -> tuple[Photometric, bool]:
    if tags.PHOTOMETRIC not in page.entries:
        if samples >= COLOURS[Photometric.RGB]:
            return Photometric.RGB, True
        fax = compression in CCITT
        return (Photometric.WHITE_IS_ZERO if fax else Photometric.BLACK_IS_ZERO), True
    number = page.integer(tags.PHOTOMETRIC, 0)
    try:
        photometric = Photometric(number)
    except ValueError:
        name = _OTHER_PHOTOMETRICS.get(number, f"photometric interpretation {number}")
        raise unsupported(TIFF, name) from None
    if photometric is Photometric.SEPARATED:
        inks = page.integer(334, 4)
        if page.integer(332, _CMYK_INKS) != _CMYK_INKS or inks != 4:
            raise unsupported(TIFF, f"{inks} inks other than CMYK")
    if samples < COLOURS[photometric]:
        if photometric in {Photometric.CIELAB, Photometric.ICCLAB} and samples == 1:
            raise unsupported(TIFF, "Lab colours of one sample")
        raise broken(TIFF, f"it has {samples} samples a pixel, too few for its colours")
    return photometric, False


def _kind(page: Directory, bits: int) -> SampleKind:
    formats = set(page.integers(339)) or {int(SampleKind.UNSIGNED)}
    if len(formats) > 1:
        raise unsupported(TIFF, "samples of different kinds")
    number = formats.pop()
    if number in {0, _UNSPECIFIED_FORMAT}:
        number = SampleKind.UNSIGNED
    if number not in set(SampleKind):
        raise unsupported(TIFF, "complex numbers as samples")
    kind = SampleKind(number)
    name, allowed = {
        SampleKind.UNSIGNED: ("", _UNSIGNED_BITS),
        SampleKind.SIGNED: ("signed ", _SIGNED_BITS),
        SampleKind.FLOAT: ("floating-point ", _FLOAT_BITS),
    }[kind]
    if bits not in allowed:
        raise unsupported(TIFF, f"{name}samples of {bits} bits")
    return kind


def _extras(page: Directory, photometric: Photometric, samples: int) -> tuple[Extra | None, ...]:
    told = page.integers(338)
    count = samples - COLOURS[photometric]
    known = [Extra(v) if v in set(Extra) else Extra.UNSPECIFIED for v in told[:count]]
    return (*known, *[None] * (count - len(known)))


def _chunk(page: Directory, size: Size, *, tiled: bool) -> Size:
    if not tiled:
        rows = page.integer(278, size.height)
        return Size(size.width, max(1, min(rows, size.height)))
    width, height = page.integer(322, 0), page.integer(323, 0)
    # Of a tile that is much larger than the picture nearly all would be decoded for nothing.
    if not (0 < width <= size.width + 4096 and 0 < height <= size.height + 4096):
        raise broken(TIFF, f"its tiles are {width}×{height}")
    return Size(width, height)


def _check_codec(layout: Layout) -> None:
    _check_compression(layout)
    _check_predictor(layout)
    _check_colours(layout)


def _check_compression(layout: Layout) -> None:
    compression, samples = layout.compression, layout.samples_per_chunk
    if compression in CCITT and (layout.bits != 1 or samples != 1):
        raise broken(TIFF, f"CCITT compression of {layout.bits} bits a sample")
    if compression not in {Compression.JPEG, Compression.WEBP}:
        return
    name = "JPEG" if compression is Compression.JPEG else "WebP"
    if layout.bits != 8 or layout.kind is not SampleKind.UNSIGNED:
        raise unsupported(TIFF, f"{name} compression of {layout.bits} bits a sample")
    if samples not in ({1, 3, 4} if compression is Compression.JPEG else {3, 4}):
        raise unsupported(TIFF, f"{name} compression of {samples} samples a pixel")
    shared = layout.photometric is Photometric.YCBCR and layout.subsampling != (1, 1)
    if layout.planar and shared:
        raise unsupported(TIFF, "subsampled colours in planes of their own")


def _check_predictor(layout: Layout) -> None:
    if layout.predictor == _HORIZONTAL:
        if layout.bits not in _PREDICTED_BITS:
            raise unsupported(TIFF, f"a predictor for {layout.bits} bits a sample")
    elif layout.predictor == _FLOATING:
        if layout.kind is not SampleKind.FLOAT:
            raise broken(TIFF, "a floating-point predictor for whole numbers")
    elif layout.predictor != _NO_PREDICTOR:
        raise unsupported(TIFF, f"predictor {layout.predictor}")


def _check_colours(layout: Layout) -> None:
    kind, bits = layout.kind, layout.bits
    if layout.photometric is Photometric.PALETTE:
        if kind is not SampleKind.UNSIGNED or bits > 16:
            raise unsupported(TIFF, f"a palette for {bits} bits a sample")
        if _PALETTE not in layout.directory.entries:
            raise broken(TIFF, "it has no palette")
    if layout.photometric is Photometric.YCBCR and (kind is not SampleKind.UNSIGNED or bits != 8):
        raise unsupported(TIFF, f"YCbCr colours of {bits} bits a sample")
    if layout.photometric in {Photometric.CIELAB, Photometric.ICCLAB} and (
        kind is SampleKind.FLOAT or bits not in {8, 16}
    ):
        raise unsupported(TIFF, f"Lab colours of {bits} bits a sample")
    if layout.subsampled:
        plain = not layout.planar and layout.samples == 3 and layout.predictor == _NO_PREDICTOR
        if not plain or not set(layout.subsampling) <= {1, 2, 4}:
            raise unsupported(TIFF, "subsampled colours of this kind")


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
