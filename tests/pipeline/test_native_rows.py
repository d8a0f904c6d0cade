"""The enlarged rows of a large picture are never on the disk all at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from testkit.pipeline_bench import GPU, Bench, FaultyEngine
from upscaled import files
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Device, UpscaleTask
from upscaled.pipeline import footprint

ROW = 48 * 2 * 3 * 2
"""Native bytes of a row of the source."""
BAND = 32 * ROW
MOST = 3 * BAND
BLOCKS = 4 * 4096
"""Room is given back in whole blocks, at both ends of a part."""


@pytest.fixture
def tall(photo_of: Callable[[int, int], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo of ten bands."""
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)
    return photo_of(48, 320)


@pytest.fixture
def small_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three bands."""
    monkeypatch.setattr(footprint, "_NATIVE_BYTES", MOST)
    monkeypatch.setattr(footprint, "_NATIVE_ROWS", 1)


class StoppedError(Exception):
    """Ends a run as a kill does."""


class Watch:
    """Notes how much room the enlarged rows have on the disk after each task."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def look(self, task: UpscaleTask) -> None:
        found = task.target.path.stat()
        assert found.st_size == task.target.total_bytes == 320 * ROW
        self.used.append(found.st_blocks * 512)


async def whole(bench: Bench, tall: Path, kind: str) -> bytes:
    engine = BuiltinEngine(CPU)
    result = await bench.run(bench.pipeline([engine]), tall, tile_size=32, result_format=kind)
    return await asyncio.to_thread(result.path.read_bytes)


@pytest.mark.parametrize("kind", ["png", "jpg"])
async def test_encoded_rows_give_their_room_back_and_the_bytes_are_the_same(
    bench: Bench, tall: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    wanted = await whole(bench, tall, kind)
    request.getfixturevalue("small_room")
    watch = Watch()
    engine = FaultyEngine(watch.look)
    job = await bench.job(tall, tile_size=32, result_format=kind)
    result = await bench.go_on(bench.pipeline([engine]), job)
    assert result.path.read_bytes() == wanted
    assert engine.rows == list(itertools.pairwise(range(0, 321, 32)))
    assert max(watch.used) <= MOST + BLOCKS


async def test_the_engine_chooses_the_tiles_as_for_a_whole_picture(
    bench: Bench, tall: Path, request: pytest.FixtureRequest
) -> None:
    engine = FaultyEngine(lambda _: None)
    before = await bench.run(bench.pipeline([engine]), tall)
    request.getfixturevalue("small_room")
    engine = FaultyEngine(lambda _: None)
    after = await bench.run(bench.pipeline([engine]), tall)
    assert engine.rows[0] == (0, 1)
    assert after.path.read_bytes() == before.path.read_bytes()


async def test_an_interrupted_run_goes_on_with_as_little_room(
    bench: Bench, tall: Path, request: pytest.FixtureRequest
) -> None:
    wanted = await whole(bench, tall, "jpg")
    request.getfixturevalue("small_room")

    def interrupt(task: UpscaleTask) -> None:
        if task.top == 192:
            raise StoppedError

    job = await bench.job(tall, tile_size=32, result_format="jpg")
    with pytest.raises(StoppedError):
        await bench.go_on(bench.pipeline([FaultyEngine(interrupt)]), job)
    watch = Watch()
    second = bench.pipeline([FaultyEngine(watch.look)])
    result = await bench.go_on(second, replace(job, runs=1))
    assert result.resumed
    assert result.path.read_bytes() == wanted
    assert max(watch.used) <= MOST + BLOCKS


async def test_devices_that_help_keep_to_the_room_too(
    bench: Bench, tall: Path, request: pytest.FixtureRequest
) -> None:
    wanted = await whole(bench, tall, "png")
    request.getfixturevalue("small_room")
    watch = Watch()
    devices = [GPU, Device(1, GPU.name, GPU.kind), Device(2, GPU.name, GPU.kind)]
    engines = [FaultyEngine(watch.look, device) for device in devices]
    result = await bench.run(bench.pipeline(engines), tall, tile_size=32)
    assert result.path.read_bytes() == wanted
    done = sorted(rows for engine in engines for rows in engine.rows)
    assert done == list(itertools.pairwise(range(0, 321, 32)))
    assert max(watch.used) <= MOST + BLOCKS


async def test_where_no_room_can_be_given_back_all_of_it_is_reserved(
    bench: Bench, tall: Path, small_room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "can_free", lambda _: False)
    watch = Watch()
    await bench.run(bench.pipeline([FaultyEngine(watch.look)]), tall, tile_size=32)
    assert min(watch.used) >= 320 * ROW


async def test_a_webp_needs_all_rows(bench: Bench, tall: Path, small_room: None) -> None:
    watch = Watch()
    job = await bench.job(tall, tile_size=32, result_format="webp")
    await bench.go_on(bench.pipeline([FaultyEngine(watch.look)]), job)
    assert min(watch.used) >= 320 * ROW
