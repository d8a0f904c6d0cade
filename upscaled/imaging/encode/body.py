"""The body of a band, encoded where the band is made, and read where the result is joined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from upscaled import files
from upscaled.errors import EngineError
from upscaled.imaging.encode.encoder import EncodedStrip, StripEncoder
from upscaled.imaging.encode.rows import ResultRows
from upscaled.imaging.encode.strips import encoded, encoder_of, spans_of
from upscaled.imaging.metadata.attached import Attached
from upscaled.imaging.prepared import Prepared
from upscaled.imaging.raw import Pixels, picture
from upscaled.imaging.result import Band, EncodedBody, FinishOptions, StripPart
from upscaled.imaging.row_map import BandRows
from upscaled.imaging.verify.comparison import BLOCK, compare
from upscaled.imaging.verify.thresholds import CONFIRMABLE_LIMIT, UnlikeError
from upscaled.imaging.verify.verify import verify_rows
from upscaled.pictures import RawImage

_LEAST_REDUCTION = 2
"""Rows are compared at least this much smaller: a comparison needs much memory."""


def encode_body(
    prepared: Prepared,
    native: RawImage,
    path: Path,
    options: FinishOptions,
    band: Band,
    *,
    threads: int = 1,
) -> EncodedBody:
    """Verify a band and encode its body into a file of its own.

    Args:
        prepared: the picture.
        native: its enlargement, of which only the band's rows are read.
        path: the file.
        options: how to write the result.
        band: the band.
        threads: how many strips are compared, and then encoded, at a time.

    Raises:
        UnlikeError: the band is not the enlarged source; nothing was written.
        EngineError: a strip does not hold what was encoded.
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
    rows = ResultRows(prepared, native, options)
    encoder = encoder_of(rows, options, Attached(prepared, options))
    top, bottom = BandRows.of(band, prepared.source.size, native.size, options).body
    parts: list[StripPart] = []
    with open(path, "wb", opener=files.no_follow) as file:
        for strip in encoded(encoder, rows, top, bottom, threads):
            file.write(strip.content)
            parts.append(StripPart(len(strip.content), strip.check, strip.length))
    return EncodedBody(path, 0, top, bottom, tuple(parts), score)


def read_strips(body: EncodedBody) -> Iterator[EncodedStrip]:
    """Yield the strips of a body.

    Raises:
        EOFError: the file is shorter than that.
        OSError: it can't be read.
    """
    with open(body.path, "rb", opener=files.no_follow) as file:
        file.seek(body.offset)
        for part in body.strips:
            content = file.read(part.bytes)
            if len(content) != part.bytes:
                raise EOFError(f"{body.path.name} is too short")
            yield EncodedStrip(content, part.check, part.length)


def check_body(
    prepared: Prepared,
    native: RawImage,
    options: FinishOptions,
    band: Band,
    body: EncodedBody,
    encoder: StripEncoder,
) -> None:
    """Check a body that another process has made: its form, and roughly what it shows.

    That process has compared the band with its source. This finds what is wrong altogether: the
    decoded rows are compared with those that the source itself gives, merely resampled.

    Raises:
        UnlikeError: it is not what it should be.
        OSError: it can't be read.
    """
    rows = ResultRows(prepared, prepared.source, options)
    own = BandRows.of(band, prepared.source.size, native.size, options)
    spans = spans_of(encoder, rows, *own.body)
    if (body.top, body.bottom) != own.body or len(spans) != len(body.strips):
        raise UnlikeError("A band that was encoded apart has other rows than it should have.")
    size = prepared.source.size
    factor = min(options.size.width // size.width, options.size.height // size.height)
    factor = max(_LEAST_REDUCTION, factor)
    try:
        for (top, bottom), strip in zip(spans, read_strips(body), strict=True):
            found = encoder.opened(strip, top, bottom)
            if bottom - top < BLOCK * factor:
                continue  # it shows too little
            share, *_ = compare(
                _reduced(rows.get(top, bottom), factor), _reduced(found, factor)
            ).worst()
            if share > CONFIRMABLE_LIMIT:
                raise UnlikeError(
                    f"A band that was encoded apart is unlike its source between its rows {top} "
                    f"and {bottom}."
                )
    except UnlikeError:
        raise
    except (EngineError, EOFError) as error:
        raise UnlikeError(f"A band that was encoded apart is damaged: {error}") from error


def _reduced(pixels: Pixels, factor: int) -> Pixels:
    """Return the colours of pixels, rows × columns × channels, reduced by ``factor``."""
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1]
    return np.asarray(picture(colours).reduce(factor).convert("RGB"))
