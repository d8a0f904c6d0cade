"""Compares two pictures of the same size block by block: a source and a reduced result.

Networks change texture, but keep the local means and any structure coarser than a pixel.
`docs/verification.md` explains how the measures and their limits were found.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from upscaled.imaging.raw import Pixels

Floats = NDArray[np.float32]

BLOCK = 16
"""Side of a block in source pixels; the last block of a row or column is up to twice as long."""

# All limits are from the experiment in bench/verification.py; levels are 0 to 255.
MEAN_BASE = 36.0
"""Levels by which the mean of a flat block may change: x4plus does that to saturated colours."""
REST_BASE = 24.0
"""Root mean square levels by which a flat block may differ, pixel by pixel."""
MEAN_PER_CONTRAST = 0.4
REST_PER_CONTRAST = 0.6
PER_FINE = 0.5
"""… plus these shares of its contrast, and of its contrast between adjacent pixels."""
CHAOS_FROM = 10.0
CHAOS_SHARE = 3.2
"""Noise and dither are contrast between adjacent pixels without coarser structure. Above this many
levels of it, a network's output there is arbitrary."""
MOST_CHAOS = 100.0
"""If that allowance exceeds this many levels, black output is not a sign of damage either."""
STRUCTURE_CONTRAST = 12.0
"""Minimum contrast in levels that counts as structure."""
LEAST_CORRELATION = -0.03
UNWRITTEN_BELOW = 48
"""A result may be wholly black only where the source is darker than this, …"""
UNWRITTEN_SHARE = 0.1
"""… except for this share of a block."""
MOST_SWAP_GAIN = 0.6
"""If another channel order reduces the difference by this share, the channels were swapped."""
MOST_SHIFT_GAIN = 0.6
"""If a shift reduces the difference by this share, the picture was shifted."""
SHIFT_DIFFERENCE = 12.0
"""Root mean square difference in levels above which shifts are searched."""
REACH = 8
"""Largest shift that is searched, in source pixels to each side."""
_SHIFT_BLOCKS = 64
"""Shifts are searched in this many blocks of a strip, those that differ most."""


@dataclass(frozen=True)
class Deviations:
    """Measures of each block as shares of the allowed values: above 1.0 the block fails."""

    mean: Floats
    rest: Floats
    structure: Floats
    unwritten: Floats
    shift: float
    """One for all blocks."""
    swap: float
    """One for all blocks."""

    def worst(self) -> tuple[float, int, int]:
        """Return the largest share, and the row and column of its block."""
        shares = np.stack((self.mean, self.rest, self.structure, self.unwritten)).max(axis=0)
        index = int(shares.argmax())
        row, column = divmod(index, shares.shape[1])
        return max(float(shares.flat[index]), self.shift, self.swap), row, column


def compare(source: Pixels, reduced: Pixels) -> Deviations:
    """Compare two pictures of equal shape, rows × columns × 3."""
    sharp, found = source.astype(np.float32), smooth(reduced.astype(np.float32))
    wanted = smooth(sharp)
    grid = Grid(source.shape[0], source.shape[1])
    fine = np.sqrt(grid.means((sharp - wanted) ** 2).max(axis=2))
    mean_wanted, mean_found = grid.means(wanted), grid.means(found)
    spread_wanted = np.maximum(grid.means(wanted**2) - mean_wanted**2, 0)
    spread_found = np.maximum(grid.means(found**2) - mean_found**2, 0)
    common = (grid.means(wanted * found) - mean_wanted * mean_found).mean(axis=2)
    moved = np.abs(mean_found - mean_wanted).max(axis=2)
    contrast = np.sqrt(spread_wanted.max(axis=2))
    disorder = np.minimum(fine / np.maximum(contrast, 1), 1.5)
    chaos = CHAOS_SHARE * np.maximum(fine - CHAOS_FROM, 0) * disorder**3 + PER_FINE * fine
    mean = moved / (MEAN_BASE + MEAN_PER_CONTRAST * contrast + chaos)
    here, there = spread_wanted.mean(axis=2), spread_found.mean(axis=2)
    difference = ((mean_found - mean_wanted) ** 2).mean(axis=2) + here + there - 2 * common
    difference = np.maximum(difference, 0)
    rest = np.sqrt(difference) / (REST_BASE + REST_PER_CONTRAST * contrast + chaos)
    structured = (np.minimum(here, there) > STRUCTURE_CONTRAST**2) & (fine < contrast)
    correlation = common / np.sqrt(np.maximum(here * there, 1))
    structure = np.where(structured, (1 - correlation) / (1 - LEAST_CORRELATION), 0)
    black = (_brightest(reduced) == 0) & (_brightest(wanted) > UNWRITTEN_BELOW)
    unwritten = grid.means(black[..., None].astype(np.float32))[..., 0] / UNWRITTEN_SHARE
    unwritten = np.where(chaos < MOST_CHAOS, unwritten, 0)
    calm = chaos < MEAN_BASE
    swap = _swap(mean_wanted[calm], mean_found[calm])
    difference = np.where(fine < contrast, difference, 0)
    shift = _shift(_grey(wanted), _grey(found), grid, difference)
    return Deviations(mean, rest, structure.astype(np.float32), unwritten, shift, swap)


class Grid:
    """The blocks of a picture of ``height`` × ``width`` pixels."""

    def __init__(self, height: int, width: int) -> None:
        self.rows = np.arange(max(1, height // BLOCK)) * BLOCK
        self.columns = np.arange(max(1, width // BLOCK)) * BLOCK
        heights = np.diff(np.append(self.rows, height))
        widths = np.diff(np.append(self.columns, width))
        self._areas = np.outer(heights, widths)[..., None].astype(np.float32)

    def means(self, values: Floats) -> Floats:
        """Return the mean of each block and channel."""
        sums = np.add.reduceat(np.add.reduceat(values, self.rows, axis=0), self.columns, axis=1)
        return np.divide(sums, self._areas, dtype=np.float32)


def smooth(values: Floats) -> Floats:
    """Blur away differences between adjacent pixels, which networks change (1 2 1 filter)."""
    for axis in (0, 1):
        ends = [(1, 1) if axis == a else (0, 0) for a in range(3)]
        padded = np.moveaxis(np.pad(values, ends, mode="edge"), axis, 0)
        middle = (padded[:-2] + padded[2:]) * np.float32(0.25) + padded[1:-1] * np.float32(0.5)
        values = np.asarray(np.moveaxis(middle, 0, axis), np.float32)
    return values


# NumPy takes ten times as long for such a short axis as for whole planes.


def _brightest(values: NDArray[Any]) -> NDArray[Any]:
    most: NDArray[Any] = np.maximum(values[..., 0], values[..., 1])
    np.maximum(most, values[..., 2], out=most)
    return most


def _grey(values: Floats) -> Floats:
    return (values[..., 0] + values[..., 1] + values[..., 2]) / np.float32(3)


def _shift(wanted: Floats, found: Floats, grid: Grid, difference: Floats) -> float:
    """Return how much a common shift reduces the difference of the blocks that differ most."""
    window = BLOCK + 2 * REACH
    padded = np.pad(wanted, REACH, mode="edge")
    total = np.zeros((2 * REACH + 1, 2 * REACH + 1), np.float64)
    count = 0
    for index in np.argsort(difference, axis=None)[::-1][:_SHIFT_BLOCKS]:
        row, column = divmod(int(index), difference.shape[1])
        if difference[row, column] < SHIFT_DIFFERENCE**2:
            break
        top, left = int(grid.rows[row]), int(grid.columns[column])
        block = found[top : top + BLOCK, left : left + BLOCK]
        if block.shape != (BLOCK, BLOCK):
            continue
        around = padded[top : top + window, left : left + window]
        total += ((sliding_window_view(around, block.shape) - block) ** 2).mean(axis=(2, 3))
        count += 1
    at_place = float(total[REACH, REACH])
    if count == 0 or at_place < count * SHIFT_DIFFERENCE**2:
        return 0.0
    # A shift of half a pixel is normal, so adjacent positions do not count.
    total[REACH - 1 : REACH + 2, REACH - 1 : REACH + 2] = np.inf
    return max(0.0, 1 - float(total.min()) / at_place) / (1 - MOST_SHIFT_GAIN)


def _swap(wanted: Floats, found: Floats) -> float:
    """Return how much another channel order reduces the difference of the block means."""
    at_place = float(((found - wanted) ** 2).mean()) if found.size else 0.0
    if at_place < SHIFT_DIFFERENCE**2:
        return 0.0
    others = [order for order in permutations(range(3)) if order != (0, 1, 2)]
    least = min(float(((found - wanted[..., order]) ** 2).mean()) for order in others)
    return max(0.0, 1 - least / at_place) / (1 - MOST_SWAP_GAIN)
