"""The zoo: awkward pictures that must come through, each with how it must look."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from testkit import pictures as makers
from testkit.paths import DATA
from testkit.pictures import Pixels, chunk, encoded, exif, icc_chunk, png

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _card() -> Image.Image:
    """A photo's colours without mirror symmetry, 60 × 44."""
    with Image.open(DATA / "astronaut.png") as photo:
        return photo.convert("RGB").resize((60, 44), Image.Resampling.BOX, (60, 0, 360, 220))


CARD = _card()
COLOUR: Pixels = np.asarray(CARD)
GREY: Pixels = np.asarray(CARD.convert("L"))
_ROWS, _COLUMNS = np.mgrid[0:44, 0:60]
HOLE: Pixels = np.where(np.hypot(_ROWS - 20, _COLUMNS - 26) < 13, 0, 255).astype(np.uint8)
FADE: Pixels = np.rint(_COLUMNS / 59 * 255).astype(np.uint8)


@dataclass(frozen=True)
class Animal:
    """A file, and what it shows to a colour-managed eye: 8-bit sRGB, and alpha if it has any."""

    name: str
    data: bytes
    colour: Pixels
    alpha: Pixels | None = None
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    """Words that one of the phrases must hold."""
    suffix: str = ""


@dataclass
class _Zoo:
    animals: list[Animal] = field(default_factory=list)

    def add(self, name: str, data: bytes, colour: Pixels = COLOUR, **more: Any) -> None:
        colour = np.repeat(colour[..., None], 3, axis=2) if colour.ndim == 2 else colour
        self.animals.append(Animal(name, data, colour, **more))


def in_srgb(image: Image.Image, profile: bytes, mode: str | None = None) -> Pixels:
    """Return ``image`` in ``profile`` as it looks, converted by the colour engine at once."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    made = ImageCms.profileToProfile(
        image, source, _SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    assert made is not None
    return np.asarray(made)


def _after(pixels: Pixels, orientation: int) -> Pixels:
    """Return the pixels as a viewer turns them (EXIF 2.32, tag 0x0112)."""
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90,
    }
    return turns[orientation](pixels)


def _with_alpha(colour: Image.Image, alpha: Pixels) -> Image.Image:
    made = colour.copy()
    made.putalpha(Image.fromarray(alpha))
    return made


def _deep(pixels: Pixels) -> NDArray[np.uint16]:
    return pixels.astype(np.uint16) * 257


def _three(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pngs(zoo: _Zoo) -> None:
    both = _with_alpha(CARD, HOLE)
    grey, palette = Image.fromarray(GREY), CARD.quantize(32)
    one_bit = CARD.convert("1")
    zoo.add("png rgb", encoded(CARD, "PNG"))
    zoo.add("png rgb interlaced", png(COLOUR, 8, interlaced=True))
    zoo.add("png rgb alpha", encoded(both, "PNG"), alpha=HOLE, kept=("transparency",))
    faded = _with_alpha(CARD, FADE)
    zoo.add("png rgb alpha fading", encoded(faded, "PNG"), alpha=FADE)
    opaque = _with_alpha(CARD, np.full_like(HOLE, 255))
    zoo.add("png rgb alpha wholly opaque", encoded(opaque, "PNG"))
    invisible = _with_alpha(CARD, np.zeros_like(HOLE))
    zoo.add("png wholly transparent", encoded(invisible, "PNG"), alpha=np.zeros_like(HOLE))
    zoo.add("png grey", encoded(grey, "PNG"), GREY)
    zoo.add("png grey alpha", encoded(_with_alpha(grey, HOLE), "PNG"), GREY, alpha=HOLE)
    zoo.add("png palette", encoded(palette, "PNG"), np.asarray(palette.convert("RGB")))
    steps = np.full(32, 255, np.uint8)
    steps[:8] = 0
    shown = steps[np.asarray(palette)]
    zoo.add("png palette alpha", encoded(palette, "PNG", transparency=steps.tobytes()),
            np.asarray(palette.convert("RGB")), alpha=shown)  # fmt: skip
    zoo.add("png 1 bit", encoded(one_bit, "PNG"), np.asarray(one_bit.convert("L")))
    bits = np.asarray(one_bit).astype(np.uint8)
    key = chunk(b"tRNS", b"\x00\x00")
    zoo.add("png 1 bit keyed", png(_three(bits), 1, before=key), bits * 255, alpha=bits * 255)
    two: Pixels = (GREY >> 6).astype(np.uint8)
    zoo.add("png 2 bit grey", png(_three(two), 2), (two * 85).astype(np.uint8))
    key = chunk(b"tRNS", b"\x00\x03")
    hole = np.where(two == 3, 0, 255).astype(np.uint8)
    zoo.add(
        "png 2 bit grey keyed",
        png(_three(two), 2, before=key),
        (two * 85).astype(np.uint8),
        alpha=hole,
    )
    four: Pixels = (GREY >> 4).astype(np.uint8)
    ramp = chunk(b"PLTE", bytes(v for n in range(16) for v in (n * 17, 255 - n * 17, 40)))
    zoo.add("png 4 bit palette", png(_three(four), 4, before=ramp, palette=True),
            np.dstack((four * 17, 255 - four * 17, np.full_like(four, 40))))  # fmt: skip
    level = int(GREY[3, 3])
    hole = np.where(level == GREY, 0, 255).astype(np.uint8)
    key = chunk(b"tRNS", bytes((0, level)))
    zoo.add("png grey keyed", png(_three(GREY), 8, before=key), GREY, alpha=hole)
    spot = COLOUR[3, 3]
    hole = np.where((spot == COLOUR).all(axis=2), 0, 255).astype(np.uint8)
    key = chunk(b"tRNS", bytes(v for c in spot for v in (0, c)))
    zoo.add("png rgb keyed", png(COLOUR, 8, before=key), alpha=hole)
    hole = np.where(level == GREY, 0, 255).astype(np.uint8)
    key = chunk(b"tRNS", bytes((level, level)))
    zoo.add("png 16 bit grey keyed", png(_three(_deep(GREY)), 16, before=key), GREY, alpha=hole)
    lost = ("16-bit",)
    zoo.add("png 16 bit grey", png(_three(_deep(GREY)), 16), GREY, lost=lost)
    zoo.add("png 16 bit rgb", png(_deep(COLOUR), 16), lost=lost)
    deep = _deep(np.dstack((COLOUR, HOLE)))
    zoo.add("png 16 bit rgb alpha", png(deep, 16), alpha=HOLE, lost=lost)
    deep = _deep(np.dstack((GREY, HOLE)))
    zoo.add("png 16 bit grey alpha", png(deep, 16), GREY, alpha=HOLE, lost=lost)
    light = np.rint((COLOUR / 255.0) ** 2.2 * 255).astype(np.uint8)
    seen = np.rint((light / 255.0) ** (1 / 2.2) * 255).astype(np.uint8)
    gamma = chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    zoo.add("png linear by gAMA", png(light, 8, before=gamma), seen, kept=("gamma",))
    zoo.add("png wide profile", png(COLOUR, 8, before=icc_chunk(makers.WIDE)),
            in_srgb(CARD, makers.WIDE), kept=("ICC profile",))  # fmt: skip
    zoo.add("png linear profile", png(COLOUR, 8, before=icc_chunk(makers.LINEAR)),
            in_srgb(CARD, makers.LINEAR), kept=("ICC profile",))  # fmt: skip
    zoo.add("png broken profile", png(COLOUR, 8, before=icc_chunk(b"x" * 200)), lost=("broken",))
    zoo.add("png grey profile on rgb", png(COLOUR, 8, before=icc_chunk(makers.GREY)),
            lost=("GRAY",))  # fmt: skip
    zoo.add("png rgb profile on grey", png(_three(GREY), 8, before=icc_chunk(makers.WIDE)),
            in_srgb(Image.fromarray(GREY).convert("RGB"), makers.WIDE))  # fmt: skip
    zoo.add("png grey profile", png(_three(GREY), 8, before=icc_chunk(makers.GREY)),
            in_srgb(Image.fromarray(GREY), makers.GREY), kept=("sRGB",))  # fmt: skip
    turned = chunk(b"eXIf", exif(6).removeprefix(b"Exif\x00\x00"))
    zoo.add("png turned", png(COLOUR, 8, before=turned), _after(COLOUR, 6), kept=("EXIF",))
    zoo.add("png turned by a late eXIf", png(COLOUR, 8, after=turned), _after(COLOUR, 6))
    for width, height in ((1, 1), (1, 44), (60, 1), (2, 3)):
        thin = COLOUR[:height, :width]
        zoo.add(f"png {width}x{height}", encoded(Image.fromarray(thin), "PNG"), thin)
    zoo.add("png named jpg", encoded(CARD, "PNG"), suffix=".jpg")


def _jpegs(zoo: _Zoo) -> None:
    for orientation in range(1, 9):
        zoo.add(f"jpeg orientation {orientation}",
                encoded(CARD, "JPEG", quality=95, exif=exif(orientation)),
                _after(COLOUR, orientation), kept=("EXIF",))  # fmt: skip
    small = encoded(CARD, "JPEG", quality=95, exif=exif(3, thumbnail=True))
    zoo.add("jpeg with a thumbnail", small, _after(COLOUR, 3), kept=("EXIF",))
    broken = b"Exif\x00\x00II*\x00\xff\xff\xff\x7f"
    zoo.add("jpeg broken exif", encoded(CARD, "JPEG", quality=95, exif=broken))
    zoo.add("jpeg orientation 9", encoded(CARD, "JPEG", quality=95, exif=exif(9)))
    zoo.add("jpeg progressive", encoded(CARD, "JPEG", quality=95, progressive=True))
    zoo.add("jpeg grey", encoded(Image.fromarray(GREY), "JPEG", quality=95), GREY)
    zoo.add("jpeg grey profile", encoded(Image.fromarray(GREY), "JPEG", quality=95,
            icc_profile=makers.GREY), in_srgb(Image.fromarray(GREY), makers.GREY))  # fmt: skip
    zoo.add("jpeg wide profile", encoded(CARD, "JPEG", quality=95, icc_profile=makers.WIDE),
            in_srgb(CARD, makers.WIDE), kept=("ICC profile",))  # fmt: skip
    ink = CARD.convert("CMYK")
    zoo.add("jpeg cmyk", encoded(ink, "JPEG", quality=95), lost=("approximate",))
    zoo.add("jpeg cmyk profile", encoded(ink, "JPEG", quality=98, icc_profile=makers.CMYK),
            in_srgb(ink, makers.CMYK), kept=("sRGB",))  # fmt: skip
    zoo.add("jpeg followed by rubbish", encoded(CARD, "JPEG", quality=95) + bytes(999))
    zoo.add("jpeg named png", encoded(CARD, "JPEG", quality=95), suffix=".png")
    preview = makers.mpo(0)
    with Image.open(io.BytesIO(preview)) as first:
        zoo.add("jpeg with a gain map", preview, np.asarray(first.convert("RGB")),
                lost=("further pictures",))  # fmt: skip


def _others(zoo: _Zoo) -> None:
    both, grey = _with_alpha(CARD, HOLE), Image.fromarray(GREY)
    one_bit, palette = CARD.convert("1"), CARD.quantize(32)
    zoo.add("webp", encoded(CARD, "WEBP", quality=95))
    zoo.add("webp lossless", encoded(CARD, "WEBP", lossless=True))
    zoo.add("webp alpha", encoded(both, "WEBP", lossless=True), alpha=HOLE)
    zoo.add("webp turned", encoded(CARD, "WEBP", lossless=True, exif=exif(5)), _after(COLOUR, 5))
    zoo.add("webp wide profile", encoded(CARD, "WEBP", lossless=True, icc_profile=makers.WIDE),
            in_srgb(CARD, makers.WIDE), kept=("ICC profile",))  # fmt: skip
    zoo.add("bmp", encoded(CARD, "BMP"))
    zoo.add("bmp palette", encoded(palette, "BMP"), np.asarray(palette.convert("RGB")))
    zoo.add("bmp 1 bit", encoded(one_bit, "BMP"), np.asarray(one_bit.convert("L")))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        zoo.add(f"tiff {compression}", encoded(CARD, "TIFF", compression=compression))
    zoo.add("tiff alpha", encoded(both, "TIFF"), alpha=HOLE)
    zoo.add("tiff fax", encoded(one_bit, "TIFF", compression="group4"),
            np.asarray(one_bit.convert("L")))  # fmt: skip
    zoo.add("tiff 16 bit grey", encoded(Image.fromarray(_deep(GREY)), "TIFF"), GREY,
            lost=("16-bit",))  # fmt: skip
    zoo.add("tiff 16 bit white is zero",
            encoded(Image.fromarray(65535 - _deep(GREY)), "TIFF", tiffinfo={262: 0}),
            GREY)  # fmt: skip
    zoo.add("tiff float", encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"), GREY,
            lost=("32-bit",))  # fmt: skip
    zoo.add("tiff cmyk profile", encoded(CARD.convert("CMYK"), "TIFF", icc_profile=makers.CMYK),
            in_srgb(CARD.convert("CMYK"), makers.CMYK))  # fmt: skip
    lab = ImageCms.profileToProfile(
        CARD, _SRGB, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), outputMode="LAB"
    )
    assert lab is not None
    zoo.add("tiff lab", encoded(lab, "TIFF"), kept=("Lab",))
    zoo.add("tiff turned", encoded(CARD, "TIFF", tiffinfo={274: 8}), _after(COLOUR, 8))
    zoo.add("tiff big", encoded(CARD, "TIFF", big_tiff=True))
    zoo.add("tiff grey", encoded(grey, "TIFF"), GREY)
    zoo.add("avif", encoded(CARD, "AVIF", quality=95))
    zoo.add("avif alpha", encoded(both, "AVIF", quality=95), alpha=HOLE)
    zoo.add("avif turned", encoded(CARD, "AVIF", quality=95, exif=exif(7)), _after(COLOUR, 7))
    zoo.add("avif wide profile", encoded(CARD, "AVIF", quality=95, icc_profile=makers.WIDE),
            in_srgb(CARD, makers.WIDE))  # fmt: skip


def animals() -> Iterator[Animal]:
    """Yield every picture that must come through."""
    zoo = _Zoo()
    for house in (_pngs, _jpegs, _others):
        house(zoo)
    yield from zoo.animals
