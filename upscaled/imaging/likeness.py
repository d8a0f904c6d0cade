"""How like two pictures of the same size are, block by block: a source and a reduced result.

Networks redraw texture as they please, but keep what stands behind it: the local means, and the
structure that is coarser than a pixel. `docs/verification.md` tells how the measures and their
limits were found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from upscaled.imaging.raw import Pixels

Floats = NDArray[np.float32]

BLOCK = 16
"""Side of a block in source pixels; the last ones of a row or column are up to twice as long."""

# All limits from the experiment in bench/verification.py; levels are of 0 to 255.
MEAN_BASE = 14.0
"""Levels by which the mean of a flat block may move."""
MEAN_PER_CONTRAST = 0.15
MEAN_PER_FINE = 0.5
"""… and as shares of its contrast, and of its contrast from one pixel to the next."""
REST_BASE = 12.0
"""Root mean square levels by which a flat block may differ, pixel by pixel."""
REST_PER_CONTRAST = 0.4
REST_PER_FINE = 0.5
STRUCTURE_CONTRAST = 12.0
"""Least contrast in levels that counts as structure."""
LEAST_CORRELATION = 0.5
MOST_SHIFT_GAIN = 0.6
"""A block that fits its surroundings this much better elsewhere than at its place was moved."""
SHIFT_DIFFERENCE = 12.0
"""Root mean square difference in levels from which that is looked into."""
REACH = 8
"""Source pixels around a block in which it is looked for."""
_SHIFT_BLOCKS = 64
"""How many of a strip's blocks, those that differ most, are looked for elsewhere."""


@dataclass(frozen=True)
class Deviations:
    """Four measures of each block, as shares of what is allowed: above 1.0 it is unlike."""

    mean: Floats
    rest: Floats
    structure: Floats
    shift: Floats

    def worst(self) -> tuple[float, int, int]:
        """Return the largest share, and the row and column of its block."""
        shares = np.stack((self.mean, self.rest, self.structure, self.shift)).max(axis=0)
        index = int(shares.argmax())
        row, column = divmod(index, shares.shape[1])
        return float(shares.flat[index]), row, column


def compare(source: Pixels, reduced: Pixels) -> Deviations:
    """Compare two pictures of equal shape, rows × columns × 3."""
    sharp, found = source.astype(np.float32), _smooth(reduced.astype(np.float32))
    wanted = _smooth(sharp)
    grid = _Grid(source.shape[0], source.shape[1])
    fine = np.sqrt(grid.means((sharp - wanted) ** 2).max(axis=2))
    mean_wanted, mean_found = grid.means(wanted), grid.means(found)
    spread_wanted = np.maximum(grid.means(wanted**2) - mean_wanted**2, 0)
    spread_found = np.maximum(grid.means(found**2) - mean_found**2, 0)
    common = (grid.means(wanted * found) - mean_wanted * mean_found).mean(axis=2)
    moved = np.abs(mean_found - mean_wanted)
    contrast = np.sqrt(spread_wanted.max(axis=2))
    mean = moved.max(axis=2) / (MEAN_BASE + MEAN_PER_CONTRAST * contrast + MEAN_PER_FINE * fine)
    here, there = spread_wanted.mean(axis=2), spread_found.mean(axis=2)
    structured = np.minimum(here, there) > STRUCTURE_CONTRAST**2
    correlation = common / np.sqrt(np.maximum(here * there, 1))
    structure = np.where(structured, (1 - correlation) / (1 - LEAST_CORRELATION), 0)
    difference = ((mean_found - mean_wanted) ** 2).mean(axis=2) + here + there - 2 * common
    rest_allowed = REST_BASE + REST_PER_CONTRAST * contrast + REST_PER_FINE * fine
    rest = np.sqrt(np.maximum(difference, 0)) / rest_allowed
    shift = _shifts(wanted.mean(axis=2), found.mean(axis=2), grid, difference)
    return Deviations(mean, rest, structure.astype(np.float32), shift)


class _Grid:
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
        means: Floats = sums / self._areas
        return means


def _smooth(values: Floats) -> Floats:
    """Take out what changes from one pixel to the next, which networks redraw (1 2 1 filter)."""
    for axis in (0, 1):
        ends = [(1, 1) if axis == a else (0, 0) for a in range(3)]
        padded = np.moveaxis(np.pad(values, ends, mode="edge"), axis, 0)
        values = np.moveaxis((padded[:-2] + padded[2:]) / 4 + padded[1:-1] / 2, 0, axis)
    return values


def _shifts(wanted: Floats, found: Floats, grid: _Grid, difference: Floats) -> Floats:
    """Return for each block how much better it fits elsewhere near by than at its place."""
    shares = np.zeros_like(difference)
    height, width = wanted.shape
    order = np.argsort(difference, axis=None)[::-1][:_SHIFT_BLOCKS]
    for index in order:
        row, column = divmod(int(index), shares.shape[1])
        top, left = int(grid.rows[row]), int(grid.columns[column])
        if difference[row, column] < SHIFT_DIFFERENCE**2:
            break
        if top + BLOCK > height or left + BLOCK > width:
            continue
        y, x = max(0, top - REACH), max(0, left - REACH)
        around = wanted[y : top + BLOCK + REACH, x : left + BLOCK + REACH]
        block = found[top : top + BLOCK, left : left + BLOCK]
        error = ((sliding_window_view(around, block.shape) - block) ** 2).mean(axis=(2, 3))
        at_place = max(float(error[top - y, left - x]), 1.0)
        if at_place < SHIFT_DIFFERENCE**2:
            continue
        # Next to its place it may fit a little better by half a pixel.
        error[max(0, top - y - 1) : top - y + 2, max(0, left - x - 1) : left - x + 2] = np.inf
        fit = float(error.min()) / at_place
        shares[row, column] = (1 - fit) / (1 - MOST_SHIFT_GAIN)
    return shares
