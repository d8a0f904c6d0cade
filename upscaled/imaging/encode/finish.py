"""Turns the engine's pixels into the finished file, band by band: verify, write, read back."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from upscaled import files
from upscaled.errors import EngineError
from upscaled.formats import WEBP, result_format
from upscaled.imaging.encode.body import check_body, read_strips
from upscaled.imaging.encode.encoder import StripEncoder
from upscaled.imaging.encode.rows import ResultRows
from upscaled.imaging.encode.strips import encoded, encoder_of
from upscaled.imaging.encode.webp import write_webp
from upscaled.imaging.metadata.attached import Attached
from upscaled.imaging.prepared import Prepared
from upscaled.imaging.raw import read_rows, strips
from upscaled.imaging.result import (
    PART,
    Band,
    EncodedBody,
    Finished,
    FinishOptions,
    Piece,
    ResultProgress,
)
from upscaled.imaging.row_map import BandRows
from upscaled.imaging.verify.verify import verify_rows
from upscaled.pictures import RawImage

_BLOCK = 1 << 20


def finish_band(
    prepared: Prepared,
    native: RawImage,
    workdir: Path,
    options: FinishOptions,
    band: Band,
    written: ResultProgress,
    body: EncodedBody | None = None,
    *,
    threads: int = 1,
) -> ResultProgress:
    """Verify a band of ``native``, write the rows it adds to the result, and finish the last band.

    Args:
        prepared: the picture.
        native: its enlargement, complete up to the band's last row.
        workdir: where `PART` is written.
        options: how to write it.
        band: begins where the previous one ended.
        written: the progress after the previous band.
        body: the band's body, if another process has verified the band and encoded it. Then
            ``native`` has only the band's rows around the body.
        threads: how many strips are compared, and then encoded, at a time.

    Returns:
        The progress after this band.

    Raises:
        UnlikeError: the band is not the enlarged source; nothing was written.
        EngineError: the written file does not hold what was written.
        OSError: it could not be written.
        MemoryError: it needs more memory than this process may have.
    """
    attached = Attached(prepared, options)
    rows = ResultRows(prepared, native, options)
    part = workdir / PART
    row = result_format(options.format)
    encoder = encoder_of(rows, options, attached) if row.banded else None
    if body is not None:
        assert encoder is not None  # noqa: S101 - other formats have no bodies
        check_body(prepared, native, options, band, body, encoder)
        score = body.score
    else:
        score = verify_rows(
            prepared.source,
            native,
            band.top,
            band.bottom,
            band.limit,
            grey=prepared.grey,
            threads=threads,
        )
    written = replace(written, source_rows=band.bottom, score=min(written.score, score))
    last = band.bottom == prepared.source.size.height
    own = BandRows.of(band, prepared.source.size, native.size, options)
    if encoder is not None:
        written = _extended(part, encoder, rows, own, written, body, threads)
    elif last:
        assert row is WEBP, f"no encoder for {row.label}"  # noqa: S101 - our own table
        write_webp(rows, part, options, attached)
    if not last:
        first, end = own.native
        if row.banded:
            first = rows.map.needed(written.rows, written.rows)[0]
        if first < end:  # later bands need these rows
            written = replace(written, pieces=(*written.pieces, _piece_of(native, first, end)))
        return written
    size, sha256 = _read_back(part, written)
    kept, lost = tuple(attached.kept), tuple(attached.lost)
    finished = Finished(part, options.size, size, sha256, written.score, kept, lost)
    return replace(written, finished=finished)


def _extended(
    part: Path,
    encoder: StripEncoder,
    rows: ResultRows,
    own: BandRows,
    written: ResultProgress,
    body: EncodedBody | None,
    threads: int,
) -> ResultProgress:
    """Append a band's rows to the result's unfinished file.

    The rows between two bodies are strips of their own, also where one machine does all bands. So
    the bytes do not depend on who encodes a body.
    """
    state = written.state if written.length else encoder.start
    length = check = 0
    middle = max(written.rows, own.body[0])
    between = encoded(encoder, rows, written.rows, middle, threads)
    if body is None:
        inner = encoded(encoder, rows, middle, own.body[1], threads)
    else:
        inner = read_strips(body)
    with open(part, "r+b" if written.length else "wb", opener=files.no_follow) as file:
        file.truncate(written.length)
        file.seek(written.length)

        def append(content: bytes) -> None:
            nonlocal length, check
            file.write(content)
            length += len(content)
            check = zlib.crc32(content, check)

        if not written.length:
            append(encoder.head())
        for strip in chain(between, inner):
            append(strip.content)
            state = encoder.joined(state, strip)
        if own.stop == rows.size.height:
            append(encoder.tail(state))
    piece = Piece(PART, written.length, length, check)
    return replace(
        written,
        rows=max(written.rows, own.stop),
        length=written.length + length,
        state=state,
        pieces=(*written.pieces, piece),
    )


def _piece_of(raw: RawImage, top: int, bottom: int) -> Piece:
    check = 0
    for first, last in strips(bottom - top, raw.row_bytes):
        check = zlib.crc32(read_rows(raw, top + first, top + last).data, check)
    return Piece(raw.path.name, top * raw.row_bytes, (bottom - top) * raw.row_bytes, check)


def _read_back(part: Path, written: ResultProgress) -> tuple[int, str]:
    """Read the complete file; return its length and SHA-256.

    Raises:
        EngineError: it is not what was written.
    """
    digest = hashlib.sha256()
    pieces = [piece for piece in written.pieces if piece.name == part.name]
    length = part.stat().st_size
    with open(part, "rb", opener=files.no_follow) as file:
        for piece in pieces:
            check = 0
            for block in _blocks(piece.length):
                content = file.read(block)
                check = zlib.crc32(content, check)
                digest.update(content)
            if check != piece.crc32:
                raise EngineError("The result on disk differs from what was written.")
        while content := file.read(_BLOCK):  # the whole of a file that was not made in pieces
            digest.update(content)
    return length, digest.hexdigest()


def _blocks(length: int) -> Iterator[int]:
    for start in range(0, length, _BLOCK):
        yield min(_BLOCK, length - start)
