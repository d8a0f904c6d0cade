"""Checks the markers of a JPEG: its kind, and whether all pixels are there (ITU-T T.81)."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from upscaled.formats import JPEG
from upscaled.imaging.decode.refusals import broken, unsupported
from upscaled.imaging.file_parts import jpeg_segments

END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_SUPPORTED = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_FRAMES = {
    0xC3: "lossless coding", 0xC5: "hierarchical coding", 0xC6: "hierarchical coding",
    0xC7: "hierarchical lossless coding", 0xCB: "lossless arithmetic coding",
    0xCD: "hierarchical arithmetic coding", 0xCE: "hierarchical arithmetic coding",
    0xCF: "hierarchical arithmetic coding", 0xF7: "JPEG-LS coding",
}  # fmt: skip
_START_OF_SCAN, _RESTART_INTERVAL = 0xDA, 0xDD
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_COEFFICIENTS = 64
_FILLER = bytes(np.random.default_rng(12).integers(0, 255, 4096, np.uint8))
"""Replaces missing coded pixels; has no byte that begins a marker."""


@dataclass
class JpegFrame:
    """The frame header."""

    marker: int
    precision: int
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]
    """Blocks across and down in a unit, by component."""

    def units(self, components: list[int]) -> int:
        """Return how many units a scan of ``components`` has."""
        most_across = max(across for across, _ in self.sampling.values())
        most_down = max(down for _, down in self.sampling.values())
        if len(components) > 1:
            return -(-self.width // (8 * most_across)) * -(-self.height // (8 * most_down))
        across, down = self.sampling[components[0]]
        columns = -(-self.width * across // most_across)
        rows = -(-self.height * down // most_down)
        return -(-columns // 8) * -(-rows // 8)


@dataclass
class _Scans:
    """The contents of a file's scans."""

    pending: dict[int, set[int]]
    """Coefficients whose last bit was not sent, by component."""
    whole: bool = True
    """The last scan has all its restart intervals."""
    begun: set[int] = field(default_factory=set)
    """Components of which there is a scan."""
    in_order: bool = True
    """All scans have all their restart markers, numbered in turn."""
    seen: int = 0
    frames: list[JpegFrame] = field(default_factory=list)


def check_kind(path: Path) -> None:
    """Refuse a file of a kind that libjpeg can't decode.

    Anything its markers do not show is left to the decoder, which skips garbage between them.

    Raises:
        UnusablePictureError: it is of such a kind; the sentence names the property.
        TooManyPartsError: it has more segments than any real file.
    """
    with path.open("rb") as file:
        for part in jpeg_segments(file):
            marker = part.name[0]
            if marker in _FRAMES:
                raise unsupported(JPEG, _FRAMES[marker])
            if marker in _SUPPORTED:
                file.seek(part.offset)
                precision, height = struct.unpack(">BH", file.read(3).ljust(3, b"\x08"))
                if precision != 8:
                    raise unsupported(JPEG, f"{precision} bits a sample")
                if height == 0:
                    raise unsupported(JPEG, "its height behind the pixels (DNL)")


def has_profile_part(path: Path) -> bool:
    """Tell whether a segment holds a colour profile or a part of one."""
    with path.open("rb") as file:
        for part in jpeg_segments(file):
            file.seek(part.offset)
            if part.name == b"\xe2" and file.read(12) == b"ICC_PROFILE\0":
                return True
    return False


def missing_scans(content: bytes) -> bool:
    """Tell whether a file with an end marker lacks scans that add detail.

    libjpeg only warns of what a scan or the file lacks, and Pillow drops its warnings.

    Raises:
        UnusablePictureError: restart markers are missing or out of order, so that pixels are
            at the wrong place; or a component has no pixels at all.
    """
    scans = _scans_of(content)
    if scans is None or not scans.seen:
        return False
    if not scans.in_order:
        raise broken(JPEG, "restart markers are missing or out of order")
    if not scans.pending.keys() <= scans.begun:
        raise broken(JPEG, "a colour component has no scan")
    return any(scans.pending.values())


def has_end(content: bytes) -> bool:
    """Tell whether an end marker follows the last scan."""
    return content.rfind(END) > content.rfind(_SCAN)


def without_end(path: Path) -> Image.Image | None:
    """Return the picture if the file lacks only its end marker; None if more is missing.

    A decoder ignores what follows the last coded pixel. So the picture is decoded twice: with
    nothing and with filler in place of possibly missing data. Where the two differ, pixels are
    missing. Restart intervals and scans that are missing entirely are found by counting.
    """
    content = path.read_bytes()
    if has_end(content) or not _has_all_scans(content):
        return None
    start = content.removesuffix(b"\xff")
    plain, filled = (_decoded(start + middle + END) for middle in (b"", _FILLER))
    if plain is None or filled is None:
        return None
    return plain if np.array_equal(np.asarray(plain), np.asarray(filled)) else None


def _decoded(content: bytes) -> Image.Image | None:
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=[JPEG.plugin])
        image.load()
    except (OSError, SyntaxError):
        return None
    return image


def _has_all_scans(content: bytes) -> bool:
    """Tell whether each component's coefficients were sent to their last bit."""
    scans = _scans_of(content)
    return scans is not None and scans.seen > 0 and scans.whole and not any(scans.pending.values())


def _scans_of(content: bytes) -> _Scans | None:
    """Return what the scans up to the end marker hold; None: the markers make no sense."""
    frame: JpegFrame | None = None
    scans = _Scans({})
    interval, at = 0, 2
    try:
        while at + 4 <= len(content):
            found = _MARKER.search(content, at)
            if found is None:
                break
            marker = content[found.start() + 1]
            at = found.end()
            if marker == END[1]:
                break
            if marker in _ALONE:
                continue
            (length,) = struct.unpack_from(">H", content, at)
            body = content[at + 2 : at + length]
            at += length
            if marker in _SUPPORTED:
                frame = _frame(marker, body)
                scans.pending = {name: set(range(_COEFFICIENTS)) for name in frame.sampling}
            elif marker == _RESTART_INTERVAL:
                (interval,) = struct.unpack(">H", body)
            elif marker == _START_OF_SCAN and frame is not None:
                _take_scan(scans, frame, body, content, at, interval)
    except (struct.error, LookupError):
        return None
    return scans


def _frame(marker: int, body: bytes) -> JpegFrame:
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    sampling = {
        body[at]: (body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, 6 + 3 * count, 3)
    }
    return JpegFrame(marker, precision, height, width, sampling)


def _take_scan(
    scans: _Scans, frame: JpegFrame, body: bytes, content: bytes, at: int, interval: int
) -> None:
    components = [body[1 + 2 * number] for number in range(body[0])]
    first, last, bits = body[1 + 2 * body[0] :][:3]
    if frame.marker not in _PROGRESSIVE:
        first, last, bits = 0, _COEFFICIENTS - 1, 0
    if bits & 15 == 0:
        for name in components:
            scans.pending[name] -= set(range(first, last + 1))
    scans.begun.update(components)
    scans.seen += 1
    scans.whole = True
    if interval:
        following = _MARKER.search(content, at)
        end = following.start() if following else len(content)
        numbers = [content[found.start() + 1] & 7 for found in _RESTART.finditer(content, at, end)]
        needed = -(-frame.units(components) // interval) - 1
        scans.whole = len(numbers) >= needed
        turn = [number % 8 for number in range(needed)]
        scans.in_order = scans.in_order and numbers[:needed] == turn
