"""Strips of a result: which encoder makes them, and the making of some ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from upscaled.formats import JPEG, PNG, result_format
from upscaled.imaging.encode.encoder import (
    EncodedStrip,
    StripEncoder,
    mean_error_allowed,
    quality_of,
)
from upscaled.imaging.encode.jpeg import JpegEncoder
from upscaled.imaging.encode.png import PngEncoder
from upscaled.imaging.encode.rows import ResultRows
from upscaled.imaging.metadata.attached import Attached
from upscaled.imaging.raw import strips
from upscaled.imaging.result import FinishOptions
from upscaled.imaging.row_map import Rows


def encoder_of(rows: ResultRows, options: FinishOptions, attached: Attached) -> StripEncoder:
    """Return the encoder of a format that is written in strips."""
    kind = result_format(options.format)
    if kind is PNG:
        return PngEncoder(options.size, rows.channels, attached)
    assert kind is JPEG, f"no encoder of strips for {kind.label}"  # noqa: S101 - our own table
    quality = quality_of(options)
    allowed = mean_error_allowed(quality)
    return JpegEncoder(options.size, rows.channels, quality, allowed, attached)


def spans_of(encoder: StripEncoder, rows: ResultRows, top: int, bottom: int) -> list[Rows]:
    """Return which rows are encoded together."""
    row_bytes = rows.channels * rows.size.width
    return [(top + a, top + b) for a, b in strips(bottom - top, row_bytes, encoder.multiple)]


def encoded(
    encoder: StripEncoder, rows: ResultRows, top: int, bottom: int, threads: int
) -> Iterator[EncodedStrip]:
    """Yield the strips of rows ``top`` to ``bottom`` in order, encoding some ahead.

    Raises:
        EngineError: a strip does not hold what was encoded.
    """

    def made(first: int, last: int) -> EncodedStrip:
        return encoder.strip(rows.get(first, last), first)

    spans = spans_of(encoder, rows, top, bottom)
    if len(spans) <= 1 or threads == 1:
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
