"""How pictures are cut into tiles, and how large those are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.engines.protocol import PADDING
from upscaled.engines.tiling import (
    LARGEST_TILE,
    SMALLEST_TILE,
    Tile,
    choose_tile,
    plan_tiles,
    reflected,
)
from upscaled.pictures import Size

GIB = 1 << 30
X4PLUS, ANIMEVIDEO = 70_000, 4_000


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


@pytest.mark.parametrize(
    ("area", "appetite", "memory", "tile"),
    [
        (Size(40, 30), X4PLUS, 8 * GIB, 40),  # one tile, no larger than the picture
        (Size(20, 7), X4PLUS, 8 * GIB, 32),
        (Size(1600, 1200), ANIMEVIDEO, 8 * GIB, 400),
        (Size(410, 100), ANIMEVIDEO, 8 * GIB, 205),  # two halves, not one tile and a sliver
        (Size(5000, 5000), X4PLUS, 16 * GIB, 218),
        (Size(5000, 5000), X4PLUS, GIB, 103),
        (Size(5000, 5000), X4PLUS, 100 << 20, SMALLEST_TILE),
        (Size(5000, 5000), X4PLUS, 0, SMALLEST_TILE),
    ],
)
def test_the_tile_is_as_large_as_memory_and_picture_want(
    area: Size, appetite: int, memory: int, tile: int
) -> None:
    assert choose_tile(area, appetite, memory) == tile


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(100, 100_000), st.integers(0, 1 << 34)
)
def test_the_tile_keeps_to_memory_and_bounds(
    width: int, height: int, appetite: int, memory: int
) -> None:
    tile = choose_tile(Size(width, height), appetite, memory)
    assert SMALLEST_TILE <= tile <= LARGEST_TILE
    assert tile == SMALLEST_TILE or (tile + 2 * PADDING) ** 2 * appetite <= memory


def test_neighbouring_tiles_touch() -> None:
    (row,) = plan_tiles(90, 0, 10, 32)
    assert all(one.right == other.left for one, other in pairwise(row))
