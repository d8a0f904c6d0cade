"""Checks the replies of an imaging process, which are not trusted.

Paths come from the job's folder, never from a reply. Each reply is compared with the request and
with the files.
"""

from __future__ import annotations

import stat
from collections.abc import Collection
from pathlib import Path

from upscaled.errors import EngineError, UnusablePictureError
from upscaled.formats import result_format
from upscaled.imaging.prepared import ALPHA, SIDECAR, SOURCE, Prepared, Probe
from upscaled.imaging.protocol import (
    VIEW,
    EncodeReply,
    EncodeRequest,
    FileReply,
    FinishReply,
    FinishRequest,
    PreparedReply,
    ProbeReply,
    ProbesReply,
    ViewReply,
    ViewRequest,
)
from upscaled.imaging.result import (
    PART,
    EncodedBody,
    Finished,
    Piece,
    ResultProgress,
)
from upscaled.imaging.row_map import BandRows
from upscaled.pictures import RawImage, Size

_MAX_SIDECAR_BYTES = 64 << 20


class WrongReplyError(EngineError):
    """An imaging process gave an impossible answer."""

    code = "engine_failed"

    def __init__(self, what: str) -> None:
        super().__init__(f"The imaging process gave a wrong answer: {what}.")


def probe_of(reply: ProbeReply, formats: Collection[str], max_pixels: int) -> Probe:
    """Return the header's content.

    Raises:
        WrongReplyError: the format is not accepted, or the size is above the limit.
    """
    size = Size(reply.width, reply.height)
    if reply.format not in formats:
        raise WrongReplyError("a format that is not taken")
    if size.pixels > max_pixels:
        raise WrongReplyError(f"a picture of {size}")
    return Probe(reply.format, size, reply.has_alpha)


def probes_of(
    reply: ProbesReply, count: int, formats: Collection[str], max_pixels: int
) -> list[Probe | None]:
    """Return the content of several headers; None for those that could not be read.

    Raises:
        WrongReplyError: as `probe_of`; or there are not ``count`` of them.
    """
    if len(reply.headers) != count:
        raise WrongReplyError(f"{len(reply.headers)} headers of {count} pictures")
    return [None if one is None else probe_of(one, formats, max_pixels) for one in reply.headers]


def prepared_of(
    reply: PreparedReply, workdir: Path, max_pixels: int, expected: Size | None
) -> Prepared:
    """Return the decoded picture whose files are in ``workdir``; blocking.

    Raises:
        WrongReplyError: a file is missing or of another length, or the size is above the limit.
        UnusablePictureError: the size is not the ``expected`` one.
    """
    size = Size(reply.width, reply.height)
    if size.pixels > max_pixels:
        raise WrongReplyError(f"a picture of {size}")
    if expected is not None and size != expected:
        raise UnusablePictureError(
            f"image decode failed: the header says {expected}, the picture is {size}."
        )
    source = RawImage(workdir / SOURCE, size)
    alpha = RawImage(workdir / ALPHA, size, 1) if reply.has_alpha else None
    sidecar = workdir / SIDECAR if reply.has_sidecar else None
    for raw in (source, alpha):
        if raw is not None:
            _check_length(raw.path, raw.total_bytes)
    if sidecar is not None and length_of(sidecar) > _MAX_SIDECAR_BYTES:
        raise WrongReplyError(f"{sidecar.name} is too long")
    return Prepared(source, alpha, sidecar, reply.kept, reply.lost, reply.grey)


def view_of(reply: ViewReply, request: ViewRequest, size: Size) -> Path:
    """Return the file of a view; blocking.

    Raises:
        WrongReplyError: it is missing or too long.
        UnusablePictureError: the picture does not have the size it should have.
    """
    if (reply.width, reply.height) != (size.width, size.height):
        raise UnusablePictureError(
            f"The picture is {reply.width}×{reply.height}, {size} was expected."
        )
    path = request.workdir / VIEW
    if not 0 < length_of(path) <= request.most_bytes:
        raise WrongReplyError(f"{path.name} is too long")
    return path


def body_of(reply: EncodeReply, request: EncodeRequest) -> EncodedBody:
    """Return a body that was encoded; blocking.

    Raises:
        WrongReplyError: the reply does not fit the file.
    """
    source = request.prepared.source.size
    rows = BandRows.of(request.band, source, request.native.size, request.options)
    body = EncodedBody(request.path, 0, *rows.body, reply.strips, reply.score)
    if not all(part.is_possible for part in body.strips):
        raise WrongReplyError("a strip that is none")
    if body.length > request.most_bytes:
        raise WrongReplyError(f"a band of {body.length} bytes")
    _check_length(body.path, body.length)
    return body


def written_of(reply: FinishReply, request: FinishRequest) -> ResultProgress:
    """Return the progress of a result; blocking.

    Raises:
        WrongReplyError: the reply does not fit the request or the files.
    """
    before, band, size = request.written, request.band, request.options.size
    last = band.bottom == request.prepared.source.size.height
    if not before.rows <= reply.rows <= size.height:
        raise WrongReplyError(f"{reply.rows} rows of {size.height}")
    if not before.length <= reply.length <= request.most_bytes:
        raise WrongReplyError(f"a result of {reply.length} bytes")
    if reply.score > before.score:
        raise WrongReplyError("a score that rose")
    for piece in reply.pieces:
        _check_piece(piece, reply, request)
    if last != (reply.file is not None):
        raise WrongReplyError("a result that ends at the wrong band")
    kept = before.pieces
    if result_format(request.options.format).banded:
        # Of the enlarged rows, the reply names all that are needed from now on.
        kept = tuple(piece for piece in kept if piece.name == PART)
    written = ResultProgress(
        source_rows=band.bottom,
        rows=reply.rows,
        length=reply.length,
        state=reply.state,
        score=reply.score,
        pieces=(*kept, *reply.pieces),
    )
    if reply.file is None:
        if reply.length:
            part = request.workdir / PART
            if length_of(part) < reply.length:
                raise WrongReplyError(f"{part.name} is too short")
        return written
    return _with_file(written, reply.file, request)


def _with_file(written: ResultProgress, file: FileReply, request: FinishRequest) -> ResultProgress:
    path = request.workdir / PART
    if file.length > request.most_bytes:
        raise WrongReplyError(f"a result of {file.length} bytes")
    _check_length(path, file.length)
    finished = Finished(
        path,
        request.options.size,
        file.length,
        file.sha256,
        written.score,
        file.kept,
        file.lost,
    )
    return ResultProgress(
        written.source_rows,
        written.rows,
        written.length,
        written.state,
        written.score,
        written.pieces,
        finished,
    )


def _check_piece(piece: Piece, reply: FinishReply, request: FinishRequest) -> None:
    ends = {PART: reply.length, request.native.path.name: request.native.total_bytes}
    end = ends.get(piece.name)
    if end is None:
        raise WrongReplyError("a piece of another file")
    if not (piece.offset >= 0 and piece.length >= 0 and piece.offset + piece.length <= end):
        raise WrongReplyError(f"a piece outside of {piece.name}")
    if not 0 <= piece.crc32 < 1 << 32:
        raise WrongReplyError("a checksum that is none")


def _check_length(path: Path, expected: int) -> None:
    length = length_of(path)
    if length != expected:
        raise WrongReplyError(f"{path.name} has {length} bytes and not {expected}")


def length_of(path: Path) -> int:
    """Return the length of a regular file; refuse links and devices; blocking.

    Raises:
        WrongReplyError: it is something else, or missing.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise WrongReplyError(f"{path.name} is missing") from error
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise WrongReplyError(f"{path.name} is no plain file")
    return found.st_size
