"""One large picture on several devices of the same model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.pipeline_bench import GPU, Bench, FaultyEngine, right
from testkit.waiting import settled, tasks_named
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Device, DeviceKind, UpscaleTask
from upscaled.engines.pool import Place
from upscaled.errors import EngineError

TWIN = Device(1, GPU.name, GPU.kind)
BANDS = [(0, 32), (32, 64), (64, 96), (96, 128), (128, 160)]
SECONDS = 60.0


@pytest.fixture
def tall(photo_of: Callable[[int, int], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo of five bands when tiles are of 32 pixels."""
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)
    return photo_of(48, 160)


async def alone(bench: Bench, picture: Path, tile_size: int = 32) -> bytes:
    result = await bench.run(bench.pipeline([BuiltinEngine(CPU)]), picture, tile_size=tile_size)
    assert result.execution.helpers == ()
    return await asyncio.to_thread(result.path.read_bytes)


class Meeting:
    """Holds the first device in its first band until another one has done some."""

    def __init__(self, bands: int, *, error: EngineError | None = None) -> None:
        self._left = bands
        self._error = error
        self._met = threading.Event()
        self.first = FaultyEngine(self._wait)
        self.other = FaultyEngine(self._count, TWIN)

    def _wait(self, task: UpscaleTask) -> None:
        if task.top == 0 and task.bottom > 1:
            assert self._met.wait(SECONDS)

    def _count(self, _: UpscaleTask) -> None:
        self._left -= 1
        if self._left == 0:
            self._met.set()
        if self._error is not None:
            raise self._error


async def test_idle_devices_do_bands_and_the_bytes_are_those_of_one(
    bench: Bench, tall: Path
) -> None:
    wanted = await alone(bench, tall)
    met = Meeting(2)
    result = await bench.run(bench.pipeline([met.first, met.other]), tall, tile_size=32)
    assert await asyncio.to_thread(result.path.read_bytes) == wanted
    assert sorted(met.first.rows + met.other.rows) == BANDS
    assert len(met.other.rows) >= 2
    assert result.execution.helpers == ("vulkan:1",)
    assert result.place.device == GPU
    assert bench.percents == sorted(bench.percents)
    assert tasks_named("help-") == []


async def test_the_first_device_chooses_the_tiles_of_all(bench: Bench, tall: Path) -> None:
    wanted = await alone(bench, tall, tile_size=0)
    first, other = FaultyEngine(right), FaultyEngine(right, TWIN)
    result = await bench.run(bench.pipeline([first, other]), tall)
    assert await asyncio.to_thread(result.path.read_bytes) == wanted
    assert (first.rows[0], first.tiles[0]) == ((0, 1), 0)
    assert set(first.tiles[1:] + other.tiles) == {result.tile_size}
    assert not set(first.rows[1:]) & set(other.rows)


async def test_a_device_that_fails_helps_no_more_and_its_band_is_done_all_the_same(
    bench: Bench, tall: Path
) -> None:
    wanted = await alone(bench, tall)
    met = Meeting(1, error=EngineError("vkQueueSubmit failed -4"))
    result = await bench.run(bench.pipeline([met.first, met.other]), tall, tile_size=32)
    assert await asyncio.to_thread(result.path.read_bytes) == wanted
    assert len(met.other.rows) == 1
    assert sorted(met.first.rows) == BANDS
    assert [attempt.outcome for attempt in bench.attempts] == ["ok"]
    assert result.execution.helpers == ()


async def test_a_job_that_waits_gets_the_device_after_a_band(bench: Bench, tall: Path) -> None:
    loop, begun, queued = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    taken = threading.Event()

    def hold_first(task: UpscaleTask) -> None:
        assert task.top > 0 or taken.wait(SECONDS)

    def hold_other(_: UpscaleTask) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert queued.wait(SECONDS)

    first, other = FaultyEngine(hold_first), FaultyEngine(hold_other, TWIN)
    pipeline = bench.pipeline([first, other])
    running = asyncio.create_task(bench.run(pipeline, tall, tile_size=32))
    async with asyncio.timeout(SECONDS):
        await begun.wait()

    async def another_job() -> None:
        async with bench.pools[-1].slot(1, Place("builtin", TWIN)):
            taken.set()
            await running  # without the other device

    async with asyncio.timeout(SECONDS):
        waiting = asyncio.create_task(another_job())
        await settled()
        queued.set()
        await waiting
    assert len(other.rows) == 1
    assert len(first.rows) == 4


async def test_after_a_failure_of_the_first_device_the_job_goes_on_without_help(
    bench: Bench, tall: Path
) -> None:
    wanted = await alone(bench, tall)
    failed: list[tuple[int, int]] = []

    def fail_once(task: UpscaleTask) -> None:
        if not failed:
            failed.append((task.top, task.bottom))
            raise EngineError("vkQueueSubmit failed -4", tile_matters=False)

    first, other = FaultyEngine(fail_once), FaultyEngine(right, TWIN)
    result = await bench.run(bench.pipeline([first, other]), tall, tile_size=32)
    assert await asyncio.to_thread(result.path.read_bytes) == wanted
    assert [attempt.outcome == "ok" for attempt in bench.attempts] == [False, True]
    assert other.rows[-1] == (0, 160)  # in one task, not in bands
    assert tasks_named("help-") == []


async def test_devices_of_another_model_do_not_help(bench: Bench, tall: Path) -> None:
    first = FaultyEngine(right)
    others = [
        FaultyEngine(right, Device(1, "another GPU", DeviceKind.DISCRETE)),
        FaultyEngine(right, Device(2, GPU.name, DeviceKind.INTEGRATED)),
    ]
    result = await bench.run(bench.pipeline([first, *others]), tall, tile_size=32)
    assert [other.rows for other in others] == [[], []]
    assert first.rows == [(0, 160)]
    assert result.execution.helpers == ()
