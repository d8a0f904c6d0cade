"""Turns the engine's pixels into the finished file, band by band: verify, write, read back."""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from upscaled import files
from upscaled.errors import EngineError
from upscaled.formats import JPEG, PNG, WEBP, result_format
from upscaled.imaging.encode.encoder import (
    EncodedStrip,
    StripEncoder,
    mean_error_allowed,
    quality_of,
)
from upscaled.imaging.encode.jpeg import JpegEncoder
from upscaled.imaging.encode.png import PngEncoder
from upscaled.imaging.encode.rows import ResultRows
from upscaled.imaging.encode.webp import write_webp
from upscaled.imaging.metadata.attached import Attached
from upscaled.imaging.prepared import Prepared
from upscaled.imaging.raw import read_rows, strips
from upscaled.imaging.result import PART, Band, Finished, FinishOptions, Piece, ResultProgress
from upscaled.imaging.verify.verify import verify_rows
from upscaled.pictures import RawImage

_ROWS = 64
"""Until its end, a result is written up to a multiple of this, where every encoder can end a
strip."""
_BLOCK = 1 << 20


def finish_band(
    prepared: Prepared,
    native: RawImage,
    workdir: Path,
    options: FinishOptions,
    band: Band,
    written: ResultProgress,
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
        threads: how many strips are compared, and then encoded, at a time.

    Returns:
        The progress after this band.

    Raises:
        UnlikeError: the band is not the enlarged source; nothing was written.
        EngineError: the written file does not hold what was written.
        OSError: it could not be written.
        MemoryError: it needs more memory than this process may have.
    """
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
    attached = Attached(prepared, options)
    rows = ResultRows(prepared, native, options)
    part = workdir / PART
    row = result_format(options.format)
    if row.banded:
        stop = rows.ready(_native_row(band.bottom, prepared, native))
        if not last:
            stop = max(written.rows, stop // _ROWS * _ROWS)
        written = _extended(part, _encoder(rows, options, attached), rows, stop, written, threads)
    elif last:
        assert row is WEBP, f"no encoder for {row.label}"  # noqa: S101 - our own table
        write_webp(rows, part, options, attached)
    if not last:
        first, end = (_native_row(row, prepared, native) for row in (band.top, band.bottom))
        if row.banded and not rows.resampled:
            first = written.rows  # those before are in the file
        if first < end:  # later bands need these rows
            written = replace(written, pieces=(*written.pieces, _piece_of(native, first, end)))
        return written
    size, sha256 = _read_back(part, written)
    kept, lost = tuple(attached.kept), tuple(attached.lost)
    finished = Finished(part, options.size, size, sha256, written.score, kept, lost)
    return replace(written, finished=finished)


def _encoder(rows: ResultRows, options: FinishOptions, attached: Attached) -> StripEncoder:
    kind = result_format(options.format)
    if kind is PNG:
        return PngEncoder(options.size, rows.channels, attached)
    assert kind is JPEG, f"no encoder of strips for {kind.label}"  # noqa: S101 - our own table
    quality = quality_of(options)
    allowed = mean_error_allowed(quality)
    return JpegEncoder(options.size, rows.channels, quality, allowed, attached)


def _native_row(row: int, prepared: Prepared, native: RawImage) -> int:
    return row * native.size.height // prepared.source.size.height


def _extended(
    part: Path,
    encoder: StripEncoder,
    rows: ResultRows,
    stop: int,
    written: ResultProgress,
    threads: int,
) -> ResultProgress:
    """Append the rows up to ``stop`` to the result's unfinished file."""
    state = written.state if written.length else encoder.start
    length = check = 0
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
        for strip in _encoded(encoder, rows, written.rows, stop, threads):
            append(strip.content)
            state = encoder.joined(state, strip)
        if stop == rows.size.height:
            append(encoder.tail(state))
    piece = Piece(PART, written.length, length, check)
    return replace(
        written,
        rows=stop,
        length=written.length + length,
        state=state,
        pieces=(*written.pieces, piece),
    )


def _encoded(
    encoder: StripEncoder, rows: ResultRows, top: int, bottom: int, threads: int
) -> Iterator[EncodedStrip]:
    """Yield the rows' strips in order, encoding some ahead."""

    def made(first: int, last: int) -> EncodedStrip:
        return encoder.strip(rows.get(first, last), first)

    row_bytes = rows.channels * rows.size.width
    spans = [(top + a, top + b) for a, b in strips(bottom - top, row_bytes, encoder.multiple)]
    if len(spans) == 1 or threads == 1:
        for span in spans:
            yield made(*span)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[EncodedStrip]] = deque()
        for span in spans:
            ahead.append(pool.submit(made, *span))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


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
