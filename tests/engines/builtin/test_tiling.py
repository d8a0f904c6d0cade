"""How pictures are cut into tiles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from upscaled.engines.builtin.tiling import Tile, plan_tiles, reflected
from upscaled.engines.engine import PADDING


@given(st.integers(1, 200), st.integers(0, 50), st.integers(1, 200), st.integers(32, 90))
def test_tiles_cover_every_pixel_once(width: int, top: int, height: int, tile: int) -> None:
    covered = np.zeros((top + height, width), int)
    for row in plan_tiles(width, top, top + height, tile):
        for place in row:
            assert 0 < place.right - place.left <= tile
            assert 0 < place.bottom - place.top <= tile
            covered[place.top : place.bottom, place.left : place.right] += 1
    assert (covered[:top] == 0).all()
    assert (covered[top:] == 1).all()


def test_bands_of_whole_tiles_have_the_tiles_of_the_whole_picture() -> None:
    whole = plan_tiles(100, 0, 150, 32)
    assert plan_tiles(100, 0, 64, 32) + plan_tiles(100, 64, 150, 32) == whole
    assert whole[-1][-1] == Tile(96, 128, 100, 150)


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 60))
def test_context_outside_the_picture_is_reflected_as_numpy_does(
    start: int, length: int, after: int
) -> None:
    picture = np.arange(start + length + after)
    positions = reflected(start, start + length, len(picture))
    padded = np.pad(picture, PADDING, mode="reflect")
    assert (picture[positions] == padded[start : start + length + 2 * PADDING]).all()


def test_neighbouring_tiles_touch() -> None:
    (row,) = plan_tiles(90, 0, 10, 32)
    assert all(one.right == other.left for one, other in pairwise(row))
