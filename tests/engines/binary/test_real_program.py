"""The engine with the real program: what it makes, and how it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit import parts
from testkit.binary_tasks import ignore, model_of, photo, psnr, result, task_for, until_child_of
from upscaled.engines.binary.engine import (
    BinaryEngine,
)
from upscaled.engines.engine import Device, DeviceKind, ModelFiles, Progress
from upscaled.errors import EngineError


@pytest.fixture
def native() -> BinaryEngine:
    return BinaryEngine(parts.native_binary(), None, env=parts.swiftshader_env())


@pytest.mark.native
async def test_the_real_program_upscales_a_photo_and_says_how_far_it_is(
    tmp_path: Path, animevideo_x2: ModelFiles, native: BinaryEngine
) -> None:
    # A folder that the program could not be told of: too long and not ASCII.
    folder = tmp_path / ("ä" * 80) / ("long" * 40)
    pixels = photo(32, 40)
    task = task_for(folder, pixels, animevideo_x2, tile_size=32)
    told: list[Progress] = []
    outcome = await native.upscale(task, told.append)
    bicubic = Image.fromarray(pixels).resize((64, 80), Image.Resampling.BICUBIC)
    assert psnr(result(task), np.asarray(bicubic)) >= 20
    shares = [progress.share for progress in told]
    assert shares == sorted(shares)
    assert told[-1] == Progress(1.0, 40, 32)
    assert {progress.rows for progress in told[:-1]} == {0}
    assert any(0.4 <= share <= 0.6 for share in shares)
    assert outcome.tile_size == 32
    assert outcome.seconds > 0
    assert list((folder / "work").iterdir()) == []


@pytest.mark.native
async def test_a_band_equals_the_same_rows_of_the_whole_picture(
    tmp_path: Path, animevideo_x2: ModelFiles, native: BinaryEngine
) -> None:
    pixels = photo(24, 48)
    whole = task_for(tmp_path / "whole", pixels, animevideo_x2)
    await native.upscale(whole, ignore)
    banded = task_for(tmp_path / "banded", pixels, animevideo_x2, top=16, bottom=32)
    await native.upscale(banded, ignore)
    got, expected = result(banded), result(whole)
    assert psnr(got[32:64], expected[32:64]) >= 45
    assert not got[:32].any()
    assert not got[64:].any()


@pytest.mark.native
async def test_an_unknown_gpu_fails_with_the_programs_own_words(
    tmp_path: Path, animevideo_x2: ModelFiles
) -> None:
    device = Device(7, "none", DeviceKind.DISCRETE)
    engine = BinaryEngine(parts.native_binary(), device, env=parts.swiftshader_env())
    with pytest.raises(EngineError, match="Invalid GPU Device"):
        await engine.upscale(task_for(tmp_path, photo(8, 8), animevideo_x2), ignore)


@pytest.mark.native
async def test_cancelling_the_real_program_leaves_no_process_and_no_file(
    tmp_path: Path, models_dir: Path, native: BinaryEngine
) -> None:
    model = model_of(models_dir, "realesrgan-x4plus", 4)
    task = task_for(tmp_path, photo(32, 96), model, tile_size=32)
    running = asyncio.create_task(native.upscale(task, ignore))
    child = await until_child_of("upscayl-bin")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not child.is_running()
    assert list((tmp_path / "work").iterdir()) == []
