"""Finds the picture among the pages of a TIFF file, and what is stored with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled.errors import UnusablePictureError
from upscaled.formats import TIFF
from upscaled.imaging.decode.decoded import Decoded
from upscaled.imaging.decode.refusals import cut_off
from upscaled.imaging.decode.tiff import directory as tags
from upscaled.imaging.decode.tiff.chunks import check_chunks
from upscaled.imaging.decode.tiff.directory import Directory, TiffFile
from upscaled.imaging.decode.tiff.exif import classic_exif, loses_maker_notes
from upscaled.imaging.decode.tiff.layout import Layout, layout_of
from upscaled.imaging.decode.tiff.picture import alpha_index, decode, mode_of
from upscaled.pictures import Size

_MAX_PAGES = 64
# Bits of NewSubfileType
_REDUCED, _MASK = 1, 4
_MASK_PHOTOMETRIC = 4
_CM_PER_INCH = 2.54
_NO_UNIT, _INCH, _CENTIMETRE = 1, 2, 3


@dataclass(frozen=True)
class TiffPage:
    """The picture, not decoded yet. It keeps the file open until `close`."""

    file: TiffFile
    layout: Layout
    lost: tuple[str, ...]
    """What else is in the file, as short phrases."""

    @property
    def size(self) -> Size:
        """As stored, not turned."""
        return self.layout.size

    @property
    def mode(self) -> str:
        """Pillow's mode of the decoded picture."""
        return mode_of(self.layout)

    @property
    def has_alpha(self) -> bool:
        """Whether it can have transparent pixels."""
        return alpha_index(self.layout) is not None

    @property
    def depth(self) -> int:
        return self.layout.bits

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8."""
        value = self.layout.directory.integer(tags.ORIENTATION, 1)
        return value if 1 <= value <= 8 else 1

    @property
    def icc(self) -> bytes:
        """The colour profile, or nothing."""
        return self.layout.directory.raw(tags.ICC_PROFILE)

    @property
    def exif(self) -> bytes:
        """The descriptive tags as a classic TIFF block, or nothing."""
        return classic_exif(self.layout.directory)

    @property
    def info(self) -> dict[str, Any]:
        """As Pillow's ``info``: ``xmp`` and ``dpi``, and blocks of IPTC and Photoshop."""
        page = self.layout.directory
        found: dict[str, Any] = {}
        if tags.XMP in page.entries:
            found["xmp"] = page.raw(tags.XMP)
        for name, tag in (("iptc", tags.IPTC), ("photoshop", tags.PHOTOSHOP)):
            if tag in page.entries:
                found[name] = page.raw(tag)
        across, down, unit = page.numbers(282), page.numbers(283), page.integer(296, _INCH)
        if across and down and unit == _NO_UNIT:
            found["aspect"] = (across[0], down[0])
        if across and down and unit in {_INCH, _CENTIMETRE}:
            factor = _CM_PER_INCH if unit == _CENTIMETRE else 1.0
            found["dpi"] = (across[0] * factor, down[0] * factor)
        return found

    def decode(self) -> Decoded:
        """Return the pixels.

        Raises:
            UnusablePictureError: a part of the file is broken.
            MemoryError: the picture does not fit.
        """
        return decode(self.layout)

    def close(self) -> None:
        self.file.close()


def open_tiff(path: Path, check_size: Callable[[Size], None]) -> TiffPage:
    """Read the directories of the file at ``path``. The caller closes the page.

    Args:
        path: the file.
        check_size: raises an error for a size that is not accepted.

    Raises:
        UnusablePictureError: the file is broken, holds several pictures, or one of a kind that
            is not supported.
    """
    file = TiffFile(path)
    try:
        pages = file.directories()
        first = next(pages)
        subfile = first.integer(tags.NEW_SUBFILE_TYPE, 0)
        if tags.DNG_VERSION in first.entries or subfile & _REDUCED:
            raise UnusablePictureError(
                "The file is a camera raw, or starts with a preview of its picture; "
                "develop it and send a PNG, TIFF or JPEG."
            )
        lost: list[str] = []
        for number, page in enumerate(pages, 2):
            words = _beside(page)
            if words is None or number > _MAX_PAGES:
                raise UnusablePictureError("The file has several pages; send one page.")
            if words not in lost:
                lost.append(words)
        check_size(Size(first.integer(tags.WIDTH, 0), first.integer(tags.HEIGHT, 0)))
        layout = layout_of(first)
        check_chunks(layout)
        unused = len(layout.extras) - (alpha_index(layout) is not None)
        if unused:
            lost.append(f"{unused} extra channel{'s' if unused > 1 else ''}")
        with contextlib.suppress(UnusablePictureError):  # `exif` reports what is broken
            if loses_maker_notes(first):
                lost.append("maker notes, whose offsets count from the start of the TIFF file")
    except StopIteration:
        file.close()
        raise cut_off(TIFF) from None
    except BaseException:
        file.close()
        raise
    return TiffPage(file, layout, tuple(lost))


def _beside(page: Directory) -> str | None:
    """Return what a further page holds if it is not a picture of its own; else None."""
    subfile = page.integer(tags.NEW_SUBFILE_TYPE, 0)
    if subfile & _MASK or page.integer(tags.PHOTOMETRIC, 0) == _MASK_PHOTOMETRIC:
        return "a transparency mask on a page of its own"
    if subfile & _REDUCED:
        return "reduced copies of the picture in the file"
    return None
