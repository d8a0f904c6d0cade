"""Progress moves while a tile runs, and neither overshoots nor goes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit.networks import make_task, photo, shipped
from upscaled.engines import tile_progress
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Progress
from upscaled.engines.tile_progress import TileProgress, eased


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_estimate_rises_and_never_reaches_the_end_of_a_tile(one: float, other: float) -> None:
    earlier, later = sorted((eased(one), eased(other)))
    assert (one <= other) == (eased(one) <= eased(other)) or eased(one) == eased(other)
    assert 0 <= earlier <= later < 1


async def test_a_step_that_comes_early_or_late_leaves_the_share_where_it_was_or_raises_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tile_progress, "TICK_SECONDS", 0.01)
    seen: list[float] = []
    ticks = asyncio.Event()

    def report(share: float) -> None:
        seen.append(share)
        if len(seen) >= 8:
            ticks.set()

    progress = TileProgress(report)
    progress.step(0.0, 0.5, 0.02)  # two tiles at once, far slower than was expected
    await ticks.wait()
    assert 0.4 < seen[-1] < 0.5
    progress.step(0.25, 0.5, 100)  # the first of them is done
    assert seen[-1] == seen[-2], "it does not go back"
    progress.step(0.75, 0.25, 100)
    assert seen[-1] == 0.75
    progress.step(1.0, 0.0, 100)
    progress.stop()
    assert seen == sorted(seen)


@pytest.mark.parametrize("library", list(CpuLibrary)[:2])
async def test_a_person_sees_the_first_tile_of_the_default_model_move(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    if library is CpuLibrary.OPENVINO:
        pytest.importorskip("openvino")
    engine = BuiltinEngine(CPU, library=library)
    seen: list[Progress] = []
    picture = photo(160, 120)
    try:
        task = make_task(tmp_path, picture, shipped(models_dir, "realesrgan-x4plus"), tile_size=160)
        await engine.upscale(task, seen.append)
    finally:
        await engine.close()
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    # The rows come with the end of the tile, which may be told twice.
    assert all(progress.rows == (120 if progress.share == 1 else 0) for progress in seen)
    assert len({int(100 * share) for share in shares if share < 1}) >= 4
