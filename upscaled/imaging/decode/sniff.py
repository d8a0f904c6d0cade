"""Detects a file's format by its first bytes, never by its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from upscaled.errors import NotAPictureError, UnusablePictureError
from upscaled.formats import PictureFormat, by_signature, labels

_HEAD = 4096

_OTHER_SIGNATURES = (
    ("Canon raw (CR2)", rb"II\*\x00....CR"),
    ("GIF", rb"GIF8[79]a"),
    ("HEIC", rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("Photoshop (PSD)", rb"8BPS"),
    ("an icon (ICO)", rb"\x00\x00[\x01\x02]\x00[^\x00]\x00.{3}\x00.{4}.{4}.{2}\x00\x00"),
    (
        "TGA",  # no signature: colour map or none, kind of picture, bits a pixel, no reserved bit
        rb".[\x00\x01][\x01\x02\x03\x09\x0a\x0b].{13}[\x08\x0f\x10\x18\x20][\x00-\x3f]",
    ),
    ("Netpbm", rb"P[1-7]\s"),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("Radiance HDR", rb"#\?RA(?:DIANC|GB)"),
    ("DDS", rb"DDS "),
    ("QOI", rb"qoif"),
    ("JPEG XR", rb"II\xbc\x01"),
    ("MNG", rb"\x8aMNG"),
    ("GIMP (XCF)", rb"gimp xcf"),
    ("Fujifilm raw (RAF)", rb"FUJIFILMCCD-RAW"),
    ("a video", rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI "),
    ("PDF", rb"%PDF-"),
    ("PostScript", rb"%!PS"),
    ("a ZIP archive", rb"PK\x03\x04"),
    ("a gzip archive", rb"\x1f\x8b"),
    # Possessive and atomic, so that crafted comments can't cause backtracking.
    (
        "SVG",
        rb"(?:\xef\xbb\xbf)?\s*+(?:<\?xml.*?\?>\s*+)?"
        rb"(?>(?><!--.*?-->)\s*+|<!DOCTYPE[^>]*+>\s*+)*+<svg[\s>]",
    ),
    ("an HTML page", rb"(?i:\s*<(?:!doctype html|html))"),
    ("plain text", rb"(?:\xef\xbb\xbf)?[\t\n\r\x20-\x7e]{16,}"),
)
_OTHERS = tuple((label, re.compile(pattern, re.DOTALL)) for label, pattern in _OTHER_SIGNATURES)


def sniff(path: Path, formats: Collection[str]) -> PictureFormat:
    """Return which of ``formats`` the file at ``path`` is.

    Raises:
        UnusablePictureError: it is empty.
        NotAPictureError: it is something else; the sentence says what, and what is taken.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise UnusablePictureError("The image file is empty; send the bytes of a picture.")
    row = by_signature(head)
    if row is not None and row.name in formats:
        return row
    known = (label for label, pattern in _OTHERS if pattern.match(head))
    label = row.label if row is not None else next(known, None)
    names = labels(formats)
    if label is None:
        raise NotAPictureError(f"The file is not a picture of a known format; send {names}.")
    raise NotAPictureError(f"The file is {label}, which is not accepted here; send {names}.")
