"""What a worker hands in of a band of another worker's picture: one file, named by its digest.

It begins with a line of JSON. Then come the enlarged rows that other bands need too, and the strips
of the result that only this band needs.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upscaled import files, serial
from upscaled.imaging import BandRows, EncodedBody, StripPart, most_result_bytes
from upscaled.pictures import RawImage, Size

_MOST_HEAD_BYTES = 8 << 20
_BLOCK = 1 << 20


class NotHandedInError(Exception):
    """A file is not what a worker hands in of a band."""


@dataclass(frozen=True)
class _Head:
    """The first line."""

    score: float = 0.0
    strips: tuple[StripPart, ...] = ()
    """Empty: all rows are as the network made them."""


def most_bytes(rows: BandRows, native: RawImage, result: Size) -> int:
    """Return how long the file of a band can be."""
    top, bottom = rows.native
    return _MOST_HEAD_BYTES + (bottom - top) * native.row_bytes + most_result_bytes(result)


def write(path: Path, native: RawImage, rows: BandRows, body: EncodedBody | None) -> str:
    """Write a new file and return its SHA-256; blocking.

    Args:
        path: the file.
        native: has the band's enlarged rows.
        rows: of the band.
        body: its strips; None: it has none.

    Raises:
        OSError: something can't be read or written.
    """
    head = _Head() if body is None else _Head(body.score, body.strips)
    digest = hashlib.sha256()
    with path.open("xb") as file, open(native.path, "rb", opener=files.no_follow) as raw:
        _copy(io.BytesIO(line := serial.encode(head) + b"\n"), file, len(line), digest)
        for top, bottom in (rows.above, rows.below):
            raw.seek(top * native.row_bytes)
            _copy(raw, file, (bottom - top) * native.row_bytes, digest)
        if body is not None:
            with open(body.path, "rb", opener=files.no_follow) as strips:
                strips.seek(body.offset)
                _copy(strips, file, body.length, digest)
    return digest.hexdigest()


def read(path: Path, native: RawImage, rows: BandRows) -> EncodedBody | None:
    """Write a band's enlarged rows, as far as they were handed in, in their place; blocking.

    Args:
        path: the file that was handed in.
        native: where the rows go.
        rows: of the band.

    Returns:
        Its strips, in the file; None: it has none.

    Raises:
        NotHandedInError: the file is something else.
        OSError: something can't be read or written.
    """
    with open(path, "rb", opener=files.no_follow) as file:
        line = file.readline(_MOST_HEAD_BYTES)
        try:
            head = serial.decode(line, _Head)
        except ValueError as error:
            raise NotHandedInError("its first line is none of ours") from error
        parts = (rows.above, rows.below)
        start = len(line) + sum(bottom - top for top, bottom in parts) * native.row_bytes
        body = EncodedBody(path, start, *rows.body, head.strips, head.score)
        has_body = rows.body[0] < rows.body[1]
        if (
            has_body != bool(head.strips)
            or not 0 <= head.score <= 1
            or not all(part.is_possible for part in head.strips)
            or path.stat().st_size != start + body.length
        ):
            raise NotHandedInError("it has other parts than the band")
        with open(native.path, "r+b", opener=files.no_follow) as raw:
            for top, bottom in parts:
                raw.seek(top * native.row_bytes)
                _copy(file, raw, (bottom - top) * native.row_bytes)
    return body if has_body else None


def _copy(
    source: BinaryIO, target: BinaryIO, length: int, digest: hashlib._Hash | None = None
) -> None:
    while length and (block := source.read(min(length, _BLOCK))):
        target.write(block)
        if digest is not None:
            digest.update(block)
        length -= len(block)
    if length:
        raise OSError("a file is too short")
