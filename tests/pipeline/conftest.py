"""A pipeline for each test, and photos cut to a size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.pipeline_bench import Bench, opened_bench


@pytest.fixture
async def bench(tmp_path: Path, models_dir: Path) -> AsyncIterator[Bench]:
    async with opened_bench(tmp_path / "data", models_dir) as bench:
        yield bench


@pytest.fixture
def photo_of(tmp_path: Path) -> Callable[[int, int], Path]:
    """Write a photo of a width and height as PNG."""

    def write(width: int, height: int) -> Path:
        path = tmp_path / f"{width}x{height}.png"
        with Image.open(DATA / "coffee.jpg") as image:
            image.resize((width, height)).save(path)
        return path

    return write
