"""The plan of a task, made before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.engines.builtin.memory_budget import TooLittleMemoryError
from upscaled.engines.builtin.parallelism import Parallelism
from upscaled.engines.builtin.tile_plan import plan_on_cpu, plan_on_gpu
from upscaled.engines.engine import ModelFiles
from upscaled.pictures import Size

MIB = 1 << 20
STORED = 33 * MIB
X4PLUS = ModelFiles(Path("n.param"), Path("n.bin"), 4, "data", "output", 68_000)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 8),
    st.integers(300, 20_000),
    st.integers(1, 8),
)
def test_weights_and_tiles_keep_to_the_limit(
    width: int, height: int, threads: int, limit_mb: int, shares: int
) -> None:
    plan = plan_on_cpu(
        X4PLUS,
        STORED,
        Size(width, height),
        threads=threads,
        limit=limit_mb * MIB,
        shares=shares,
    )
    assert plan.tile == 32 or plan.tile_memory <= plan.tile_memory_limit
    assert plan.weight_memory + max(plan.tile_memory_limit, plan.tile_memory) <= limit_mb * MIB
    whole = (width + 20) * (height + 20) * (34_000 if plan.lean else 68_000)
    fit = min(shares, plan.tile_memory_limit // whole)
    assert plan.parallelism.workers * plan.parallelism.threads <= (
        max(1, threads // shares) if fit == shares >= threads > 1 else threads
    )


def test_where_memory_lets_few_in_each_gets_all_threads() -> None:
    def threads(limit_mb: int) -> int:
        picture, limit = Size(128, 128), limit_mb * MIB
        parallelism = plan_on_cpu(
            X4PLUS, STORED, picture, threads=16, limit=limit, shares=16
        ).parallelism
        return parallelism.workers * parallelism.threads

    assert [threads(limit_mb) for limit_mb in (40_000, 16_000, 8_000)] == [1, 1, 16]


def test_a_small_picture_is_one_tile_for_whoever_shares_the_processor() -> None:
    alone, shared = (
        plan_on_cpu(X4PLUS, STORED, Size(64, 64), threads=2, limit=8000 * MIB, shares=shares)
        for shares in (1, 2)
    )
    assert (alone.tile, alone.parallelism) == (64, Parallelism(1, 2))
    assert (shared.tile, shared.parallelism) == (64, Parallelism(1, 1))
    assert shared.tile_memory == 84 * 84 * 68_000


def test_a_tile_that_is_named_is_kept_and_little_that_is_free_makes_a_smaller_one() -> None:
    def plan(tile: int = 0, free: int | None = None) -> int:
        picture = Size(1000, 1000)
        return plan_on_cpu(
            X4PLUS, STORED, picture, tile=tile, threads=2, limit=8000 * MIB, free=free
        ).tile

    assert plan(tile=77) == plan(tile=77, free=0) == 77
    assert plan(free=500 * MIB) < plan()


def test_where_little_may_be_held_the_network_is_lean_or_refused() -> None:
    picture = Size(100, 100)
    assert not plan_on_cpu(X4PLUS, STORED, picture, threads=2, limit=900 * MIB).lean
    assert plan_on_cpu(X4PLUS, STORED, picture, threads=2, limit=300 * MIB).lean
    with pytest.raises(TooLittleMemoryError, match="smallest tile"):
        plan_on_cpu(X4PLUS, STORED, picture, threads=2, limit=100 * MIB)


def test_a_gpu_does_one_tile_at_a_time() -> None:
    plan = plan_on_gpu(X4PLUS, Size(5000, 5000), threads=2)
    assert plan.parallelism == Parallelism(1, 2)
    assert 200 < plan.tile < 240
    assert plan_on_gpu(X4PLUS, Size(5000, 5000), threads=2, free=500 * MIB).tile < 80


def test_planning_loads_no_heavy_library() -> None:
    code = (
        "import sys, upscaled.engines.builtin.tile_plan, upscaled.engines.memory;"
        "print([name for name in ('ncnn', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
