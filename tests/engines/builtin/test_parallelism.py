"""How large tiles are, and how many run at the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.engines.builtin.parallelism import (
    LARGEST_TILE,
    Parallelism,
    Resources,
    parallelism_for,
    tile_bytes,
)
from upscaled.engines.builtin.tile_size import choose_tile
from upscaled.engines.engine import SMALLEST_TILE
from upscaled.pictures import Size

GIB = 1 << 30
X4PLUS, ANIMEVIDEO = 70_000, 4_000


@pytest.mark.parametrize(
    ("picture", "bytes_per_pixel", "cores", "memory", "tile", "parallelism"),
    [
        (Size(64, 64), ANIMEVIDEO, 2, 4 * GIB, 64, Parallelism(1, 2)),  # a thumbnail is one tile
        (Size(20, 7), X4PLUS, 2, 4 * GIB, 32, Parallelism(1, 2)),
        (Size(1600, 1200), ANIMEVIDEO, 2, 4 * GIB, 400, Parallelism(2, 1)),
        (Size(1600, 1200), ANIMEVIDEO, 1, 4 * GIB, 400, Parallelism(1, 1)),
        (Size(512, 512), ANIMEVIDEO, 2, 4 * GIB, 256, Parallelism(2, 1)),
        (Size(512, 512), X4PLUS, 2, 4 * GIB, 128, Parallelism(2, 1)),
        (
            Size(5000, 5000),
            X4PLUS,
            2,
            300 << 20,
            40,
            Parallelism(1, 2),
        ),  # one larger, not two small
        (Size(5000, 5000), X4PLUS, 2, 0, SMALLEST_TILE, Parallelism(1, 2)),
    ],
)
def test_tiles_and_crews_suit_picture_cores_and_memory(
    picture: Size,
    bytes_per_pixel: int,
    cores: int,
    memory: int,
    tile: int,
    parallelism: Parallelism,
) -> None:
    resources = Resources(cores, memory)
    assert choose_tile(picture, bytes_per_pixel, resources, memory) == tile
    assert parallelism_for(picture, tile, bytes_per_pixel, resources) == parallelism


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(100, 100_000),
    st.integers(1, 64),
    st.integers(0, 1 << 34),
    st.integers(0, 1 << 34),
)
def test_all_tiles_in_work_fit_into_memory(
    width: int, height: int, bytes_per_pixel: int, cores: int, memory: int, free: int
) -> None:
    picture, resources = Size(width, height), Resources(cores, memory)
    tile = choose_tile(picture, bytes_per_pixel, resources, free)
    parallelism = parallelism_for(picture, tile, bytes_per_pixel, resources)
    assert SMALLEST_TILE <= tile <= LARGEST_TILE
    assert 1 <= parallelism.workers * parallelism.threads <= cores
    needed = parallelism.workers * tile_bytes(picture, tile, bytes_per_pixel)
    assert tile == SMALLEST_TILE or needed <= min(memory, free)
    assert parallelism.workers == 1 or needed <= memory


def test_little_free_memory_changes_the_tile_and_nothing_else() -> None:
    picture, resources = Size(2000, 2000), Resources(2, 4 * GIB)
    much, little = (choose_tile(picture, ANIMEVIDEO, resources, free) for free in (GIB, GIB // 8))
    assert little < much
    assert {parallelism_for(picture, tile, ANIMEVIDEO, resources) for tile in (little, much)} == {
        Parallelism(2, 1)
    }
