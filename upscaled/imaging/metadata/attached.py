"""`Attached`: the metadata that the result's format can hold, adjusted to its size."""

from __future__ import annotations

import struct
from dataclasses import replace

from upscaled.formats import JPEG, PNG, result_format
from upscaled.imaging.metadata import exif as exifs
from upscaled.imaging.metadata import iptc, xmp
from upscaled.imaging.metadata.sidecar import (
    COMMENT,
    EXIF,
    IPTC,
    PROFILE,
    RESOLUTION,
    TEXT,
    XMP,
    Metadata,
)
from upscaled.imaging.prepared import Prepared
from upscaled.imaging.result import FinishOptions

_SEGMENT_BYTES = 65_533
"""Capacity of one JPEG segment."""
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_METRE = 0.0254
"""Of an inch."""
_COMMENT = b"Comment"


class Attached:
    """The data stored with the result's pixels, and what is reported about it."""

    def __init__(self, prepared: Prepared, options: FinishOptions) -> None:
        self.kept, self.lost = list(prepared.kept), list(prepared.lost)
        self._format = result_format(options.format)
        if prepared.alpha is not None and not self._format.has_alpha:
            self._lose("transparency", "transparency, laid on the background colour")
        found = Metadata.load(prepared.sidecar)
        if not options.keep_metadata:
            for name in (PROFILE, EXIF, IPTC, RESOLUTION, TEXT, XMP, COMMENT):
                self._lose(name, f"{name}, as was asked for")
            found = Metadata()
        size, source = options.size, prepared.source.size
        scale = (size.width / source.width, size.height / source.height)
        dpi = found.dpi and (found.dpi[0] * scale[0], found.dpi[1] * scale[1])
        self.icc = found.icc
        self.dpi = dpi
        block = found.exif or (exifs.EMPTY if dpi and self._format not in (PNG, JPEG) else b"")
        self.exif = b""
        if block:
            try:
                self.exif = exifs.patched(
                    block, size, scale, turned=found.turned, srgb=not found.icc, dpi=dpi
                )
            except exifs.ExifError:
                self._lose(EXIF, "EXIF, which is broken")
        self.xmp = found.xmp and xmp.patched(found.xmp, size, scale, turned=found.turned)
        self._found = replace(found, exif=b"", xmp=b"")
        self._fit()

    def _fit(self) -> None:
        """Drop what the format cannot hold."""
        found, label = self._found, self._format.label
        if self._format is JPEG:
            for name, block, most in (
                (EXIF, self.exif, _SEGMENT_BYTES - 6),
                (XMP, self.xmp, _SEGMENT_BYTES - len(_XMP_MARK)),
                (IPTC, found.iptc, _SEGMENT_BYTES - 32),
                (COMMENT, found.comment, _SEGMENT_BYTES),
            ):
                if len(block) > most:
                    self._lose(name, f"{name} of {len(block)} bytes, more than a JPEG holds")
            self.exif = self.exif if EXIF in self.kept else b""
            self.xmp = self.xmp if XMP in self.kept else b""
        texts = [content.partition(b"\0")[0] for _, content in found.texts]
        if self._format is not PNG and texts:
            keep = self._format is JPEG and set(texts) == {_COMMENT} and not found.comment
            names = ", ".join(repr(t[:20].decode("latin-1")) for t in dict.fromkeys(texts[:8]))
            if not keep:
                self._lose(TEXT, f"text {names}, which a {label} cannot hold")
        if self._format not in (PNG, JPEG):
            for name in (IPTC, COMMENT):
                self._lose(name, f"{name}, which a {label} cannot hold")

    def _lose(self, name: str, words: str) -> None:
        if name in self.kept:
            self.kept.remove(name)
            self.lost.append(words)

    def png_chunks(self) -> list[tuple[bytes, bytes]]:
        """Return names and contents of the chunks between header and pixels."""
        chunks = []
        if self.dpi is not None:
            pair = [min(2**31 - 1, max(1, round(v / _METRE))) for v in self.dpi]
            chunks.append((b"pHYs", struct.pack(">IIB", *pair, 1)))
        if self.exif:
            chunks.append((b"eXIf", self.exif))
        if self.xmp:
            chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + self.xmp))
        if self._found.iptc:
            content = iptc.joined(self._found.iptc)
            chunks.append((b"zTXt", iptc.raw_profile(b"iptc", content)))
        if self._found.comment:
            text = self._found.comment
            try:
                chunks.append((b"iTXt", _COMMENT + b"\0\0\0\0\0" + text.decode().encode()))
            except UnicodeDecodeError:
                chunks.append((b"tEXt", _COMMENT + b"\0" + text.replace(b"\0", b" ")))
        chunks += [(name.encode(), content) for name, content in self._found.texts]
        return chunks

    def jpeg_segments(self) -> bytes:
        """Return the segments after the JFIF segment."""
        made = b""
        if self.exif:
            made += _segment(0xE1, b"Exif\0\0" + self.exif)
        if self.xmp:
            made += _segment(0xE1, _XMP_MARK + self.xmp)
        if self._found.iptc and IPTC in self.kept:
            made += _segment(0xED, b"Photoshop 3.0\0" + iptc.joined(self._found.iptc))
        comment = self._found.comment if COMMENT in self.kept else b""
        if not comment and TEXT in self.kept:
            comment = b"\n".join(c.partition(b"\0")[2] for n, c in self._found.texts if n == "tEXt")
        if comment:
            made += _segment(0xFE, comment)
        return made


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jfif_density(dpi: tuple[float, float]) -> bytes:
    """Return unit, horizontal and vertical density as in a JFIF header (ITU-T T.871, 10.1)."""
    pair = [min(65_535, max(1, round(v))) for v in dpi]
    return struct.pack(">BHH", 1, *pair)
