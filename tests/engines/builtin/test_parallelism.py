"""How large tiles are, and how many are in work at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.engines.builtin.parallelism import (
    LARGEST_TILE,
    SMALLEST_TILE,
    Budget,
    Crew,
    choose_tile,
    crew_for,
    tile_bytes,
)
from upscaled.pictures import Size

GIB = 1 << 30
X4PLUS, ANIMEVIDEO = 70_000, 4_000


@pytest.mark.parametrize(
    ("picture", "appetite", "cores", "memory", "tile", "crew"),
    [
        (Size(64, 64), ANIMEVIDEO, 2, 4 * GIB, 64, Crew(1, 2)),  # a thumbnail is one tile
        (Size(20, 7), X4PLUS, 2, 4 * GIB, 32, Crew(1, 2)),
        (Size(1600, 1200), ANIMEVIDEO, 2, 4 * GIB, 400, Crew(2, 1)),
        (Size(1600, 1200), ANIMEVIDEO, 1, 4 * GIB, 400, Crew(1, 1)),
        (Size(512, 512), ANIMEVIDEO, 2, 4 * GIB, 256, Crew(2, 1)),
        (Size(512, 512), X4PLUS, 2, 4 * GIB, 128, Crew(2, 1)),
        (Size(5000, 5000), X4PLUS, 2, 300 << 20, 40, Crew(1, 2)),  # one larger, not two small
        (Size(5000, 5000), X4PLUS, 2, 0, SMALLEST_TILE, Crew(1, 2)),
    ],
)
def test_tiles_and_crews_suit_picture_cores_and_memory(
    picture: Size, appetite: int, cores: int, memory: int, tile: int, crew: Crew
) -> None:
    budget = Budget(cores, memory)
    assert choose_tile(picture, appetite, budget, memory) == tile
    assert crew_for(picture, tile, appetite, budget) == crew


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(100, 100_000),
    st.integers(1, 64),
    st.integers(0, 1 << 34),
    st.integers(0, 1 << 34),
)
def test_all_tiles_in_work_fit_into_memory(
    width: int, height: int, appetite: int, cores: int, memory: int, free: int
) -> None:
    picture, budget = Size(width, height), Budget(cores, memory)
    tile = choose_tile(picture, appetite, budget, free)
    crew = crew_for(picture, tile, appetite, budget)
    assert SMALLEST_TILE <= tile <= LARGEST_TILE
    assert 1 <= crew.workers * crew.threads <= cores
    needed = crew.workers * tile_bytes(picture, tile, appetite)
    assert tile == SMALLEST_TILE or needed <= min(memory, free)
    assert crew.workers == 1 or needed <= memory


def test_little_free_memory_changes_the_tile_and_nothing_else() -> None:
    picture, budget = Size(2000, 2000), Budget(2, 4 * GIB)
    much, little = (choose_tile(picture, ANIMEVIDEO, budget, free) for free in (GIB, GIB // 8))
    assert little < much
    assert {crew_for(picture, tile, ANIMEVIDEO, budget) for tile in (little, much)} == {Crew(2, 1)}
