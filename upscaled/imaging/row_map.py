"""Which rows of a result depend on which rows of the enlarged picture, and what a band adds.

A band's own rows, its body, depend on no other band. So they can be encoded where the band is made.
The rows between two bodies need both bands' pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from upscaled.formats import result_format
from upscaled.imaging.result import Band, FinishOptions
from upscaled.pictures import Size

LANCZOS_LOBES = 3
Rows = tuple[int, int]
"""The first row, and the one after the last."""


@dataclass(frozen=True)
class RowMap:
    """Maps rows of a result to rows of the enlarged, ``native`` picture, and back."""

    native: Size
    result: Size

    @property
    def resampled(self) -> bool:
        """Whether a row depends on rows of the native picture at other positions."""
        return self.native != self.result

    @property
    def _ratio(self) -> float:
        return self.native.height / self.result.height

    @property
    def _margin(self) -> int:
        return margin(self._ratio) if self.resampled else 0

    def ready(self, there: int) -> int:
        """Return how many rows of the result can be made from the first ``there`` native rows."""
        if there == self.native.height:
            return self.result.height
        row = max(0, math.floor(there / self._ratio) - self._margin)
        while row and self.needed(0, row)[1] > there:  # the quotient was rounded up
            row -= 1
        return row

    def free(self, above: int) -> int:
        """Return the first row of the result that needs none of the first ``above`` native rows."""
        if above == 0:
            return 0
        row = math.ceil(above / self._ratio) + self._margin
        while self.needed(row, row)[0] < above:  # the quotient was rounded down
            row += 1
        return min(self.result.height, row)

    def needed(self, top: int, bottom: int) -> Rows:
        """Return the native rows that rows ``top`` to ``bottom`` of the result are made from."""
        first, last = max(0, top - self._margin), min(self.result.height, bottom + self._margin)
        end = min(self.native.height, math.ceil(last * self._ratio))
        return math.floor(first * self._ratio), end


def margin(ratio: float) -> int:
    """Return how many rows are made beyond both ends of a strip that is resampled.

    Args:
        ratio: rows of the old picture for each of the new one.
    """
    return math.ceil(LANCZOS_LOBES * max(1.0, 1 / ratio))


@dataclass(frozen=True)
class BandRows:
    """The rows of a band."""

    native: Rows
    """Of the enlarged picture."""
    body: Rows
    """Of the result, made from those alone; empty if the band is too low."""
    stop: int
    """The row of the result before which all can be written once the band is done."""
    above: Rows
    """The native rows of this band that the rows between the bodies above it need."""
    below: Rows
    """The same for those below it."""

    @classmethod
    def of(cls, band: Band, source: Size, native: Size, options: FinishOptions) -> BandRows:
        """Return the rows of a band.

        Strips end at multiples of a number of rows that depends on the format. In a format that is
        not written in strips, bands have no body.
        """
        unit = result_format(options.format).strip_rows
        rows = RowMap(native, options.size)
        top, bottom = (row * native.height // source.height for row in (band.top, band.bottom))
        first = stop = rows.ready(bottom)
        if unit:
            if band.bottom < source.height:
                stop = stop // unit * unit
            first = min(stop, -(-rows.free(top) // unit) * unit)
        if first == stop:  # all of it may be needed on both sides
            return cls((top, bottom), (stop, stop), stop, (top, bottom), (bottom, bottom))
        end = top if first == 0 else rows.needed(first, first)[1]
        again = bottom if stop == options.size.height else rows.needed(stop, stop)[0]
        return cls(
            (top, bottom), (first, stop), stop, (top, max(top, end)), (max(end, again), bottom)
        )
