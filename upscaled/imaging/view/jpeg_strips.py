"""Decodes a JPEG a strip at a time, if it has a restart marker after each row of blocks.

Data after such a marker does not depend on data before it (ITU-T T.81, E.1.4). So some rows of
blocks, behind the file's own tables, are a small JPEG.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from upscaled.formats import JPEG
from upscaled.imaging.decode.refusals import cut_off
from upscaled.imaging.file_parts import jpeg_segments
from upscaled.pictures import Size

_BLOCK = 8
_RESTARTS = 8
"""Restart markers are numbered modulo this, so a strip has a multiple of it in rows of blocks."""
_STRIP_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
_FRAME, _INTERVAL = 0xC0, 0xDD
_KEPT = {_FRAME, 0xC4, 0xDB, _INTERVAL, 0xE0, 0xEE}
"""Frame, tables, restart interval, JFIF and Adobe (which tell how colours are coded)."""
_OTHER_FRAMES = {0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xD0)}
_START = 0xD8
_MARKER = re.compile(rb"\xff[\xd0-\xd9]")


def jpeg_strips(path: Path, size: Size) -> Iterator[Image.Image] | None:
    """Return the strips of a baseline JPEG; None if it lacks the restart markers."""
    segments, frame, interval, end = [], b"", 0, 2
    with path.open("rb") as file:
        for part in jpeg_segments(file):
            marker = part.name[0]
            if marker in _OTHER_FRAMES:
                return None
            file.seek(part.offset)
            content = file.read(part.length)
            end = part.offset + part.length
            if marker == _FRAME:
                frame = content
            elif marker == _INTERVAL and len(content) == 2:
                interval = int.from_bytes(content, "big")
            if marker in _KEPT:
                segments.append((marker, content))
        file.seek(end)
        scan = file.read(4)
    components = frame[5] if len(frame) > 5 else 0
    if scan[:2] != b"\xff\xda" or len(frame) != 6 + 3 * components or components not in {1, 3}:
        return None
    if any(frame[7 + 3 * number] != 0x11 for number in range(components)):
        return None  # blocks of more than 8 rows
    if interval != -(-size.width // _BLOCK):
        return None
    start = end + 2 + int.from_bytes(scan[2:], "big")
    with path.open("rb") as file:
        file.seek(end)
        scan_head = file.read(start - end)
    if len(scan_head) < 3 or scan_head[4] != components:
        return None  # one scan for each component
    return _strips(path, size, segments, scan_head, start)


def _strips(
    path: Path,
    size: Size,
    segments: list[tuple[int, bytes]],
    scan_head: bytes,
    start: int,
) -> Iterator[Image.Image]:
    per_row = size.width * _BLOCK * 3
    step = max(1, _STRIP_BYTES // (per_row * _RESTARTS)) * _RESTARTS
    total = -(-size.height // _BLOCK)
    done, rows = 0, 0
    coded = bytearray()
    for interval in _intervals(path, start):
        coded += interval
        rows += 1
        if rows == step or done + rows == total:
            height = min(rows * _BLOCK, size.height - done * _BLOCK)
            yield _decoded(height, segments, scan_head, bytes(coded))
            done, rows = done + rows, 0
            coded.clear()
            if done == total:
                return
        else:
            coded += bytes((0xFF, 0xD0 + (rows - 1) % _RESTARTS))
    raise cut_off(JPEG, f"it has {done + rows} of {total} rows of blocks")


def _decoded(
    height: int, segments: list[tuple[int, bytes]], scan_head: bytes, coded: bytes
) -> Image.Image:
    parts = [b"\xff\xd8"]
    for marker, content in segments:
        parts.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2))
        if marker == _FRAME:
            parts += [content[:1], struct.pack(">H", height), content[3:]]
        else:
            parts.append(content)
    small = b"".join([*parts, scan_head, coded, b"\xff\xd9"])
    with Image.open(io.BytesIO(small), formats=["JPEG"]) as image:
        image.load()
        return image.copy()


def _intervals(path: Path, start: int) -> Iterator[bytes]:
    """Yield the coded data between restart markers."""
    waiting = bytearray()
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(_PIECE_BYTES):
            # A marker may lie across two pieces.
            searched = max(0, len(waiting) - 1)
            waiting += piece
            at = 0
            for match in _MARKER.finditer(waiting, searched):
                yield bytes(waiting[at : match.start()])
                at = match.end()
                if waiting[at - 1] >= _START:  # the file's end, or what can't be here
                    return
            del waiting[:at]
    yield bytes(waiting)
