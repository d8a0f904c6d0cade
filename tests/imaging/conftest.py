"""One pool of imaging processes for all tests of a module: starting one takes a while."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from upscaled.imaging import Imaging

MAX_PIXELS = 4_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def imaging() -> AsyncIterator[Imaging]:
    """An `Imaging` that accepts up to `MAX_PIXELS`."""
    made = Imaging(max_pixels=MAX_PIXELS, memory_limit_mb=1024, cpu_seconds=5)
    yield made
    await made.close()
