"""One job's run, especially its retries: failures are retried elsewhere or reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit import parts
from testkit.gallery import gallery
from testkit.paths import DATA
from testkit.pipeline_bench import (
    FAST,
    ODD,
    Bench,
    FaultyEngine,
    KilledEngine,
    WrappingProgram,
    black,
    broken,
    out_of_memory,
    right,
)
from upscaled.engines.binary.program import Flavour
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import (
    CPU,
    Device,
    DeviceKind,
    UpscaleTask,
)
from upscaled.errors import EngineError
from upscaled.workers import deaths


@pytest.fixture
def photo(photo_of: Callable[[int, int], Path]) -> Path:
    return photo_of(150, 100)


def likeness(result: Path, source: Path) -> float:
    """PSNR in dB of the result, reduced to its source's size, against the source."""
    with Image.open(result) as big, Image.open(source) as small:
        reduced = np.asarray(big.convert("RGB").resize(small.size, Image.Resampling.BOX), float)
        error = reduced - np.asarray(small.convert("RGB"), float)
    return float(10 * np.log10(255**2 / max(1e-9, np.mean(error**2))))


async def test_a_tile_too_large_for_the_device_is_halved_until_it_fits(
    bench: Bench, photo: Path
) -> None:
    engine = FaultyEngine(out_of_memory)
    result = await bench.run(bench.pipeline([engine]), photo)
    assert engine.tiles == [0, 100, 50, 32]
    assert [attempt.outcome for attempt in bench.attempts] == [
        *["vkAllocateMemory failed -2"] * 3,
        "ok",
    ]
    assert result.tile_size == 32
    assert likeness(result.path, photo) > 24


async def test_the_tile_that_worked_is_remembered_for_the_next_job(
    bench: Bench, photo: Path
) -> None:
    engine = FaultyEngine(out_of_memory)
    pipeline = bench.pipeline([engine])
    await bench.run(pipeline, photo)
    engine.tiles.clear()
    await bench.run(pipeline, photo)
    assert engine.tiles == [32]


async def test_a_tile_that_the_caller_fixed_is_not_overridden(bench: Bench, photo: Path) -> None:
    engine = FaultyEngine(out_of_memory)
    with pytest.raises(EngineError, match="vkAllocateMemory failed -2"):
        await bench.run(bench.pipeline([engine]), photo, tile_size=64)
    assert engine.tiles == [64]


@pytest.mark.parametrize("tile_size", [0, 32])
async def test_an_engine_that_is_killed_twice_is_replaced_twice(
    bench: Bench, photo: Path, tile_size: int
) -> None:
    engine = KilledEngine(2)
    result = await bench.run(bench.pipeline([engine]), photo, tile_size=tile_size)
    died = "The builtin engine (cpu) process ended with signal 9."
    assert [attempt.outcome for attempt in bench.attempts] == [died, died, "ok"]
    assert engine.tiles[:2] == [tile_size] * 2
    assert likeness(result.path, photo) > 24


@pytest.mark.parametrize("tile_size", [0, 32])
async def test_the_bound_on_deaths_is_the_same_as_in_the_other_stages(
    bench: Bench, photo: Path, tile_size: int
) -> None:
    engine = KilledEngine(1000)
    with pytest.raises(EngineError, match="ended with signal 9"):
        await bench.run(bench.pipeline([engine]), photo, tile_size=tile_size)
    assert len(engine.tiles) == deaths.TRIES == 3


async def test_a_broken_gpu_gives_way_to_the_next_and_then_to_the_cpu(
    bench: Bench, photo: Path
) -> None:
    other = Device(1, "another GPU", DeviceKind.DISCRETE)
    pipeline = bench.pipeline(
        [FaultyEngine(broken), FaultyEngine(broken, other)], lambda: BuiltinEngine(CPU)
    )
    result = await bench.run(pipeline, photo)
    tried = [(attempt.device, attempt.outcome == "ok") for attempt in bench.attempts]
    assert tried == [*[("vulkan:0", False)] * 4, *[("vulkan:1", False)] * 4, ("cpu", True)]
    assert result.place.device is CPU
    assert likeness(result.path, photo) > 24


async def test_a_black_picture_is_never_handed_out(bench: Bench, photo: Path) -> None:
    with pytest.raises(EngineError) as failed:
        await bench.run(bench.pipeline([FaultyEngine(black)]), photo)
    assert failed.value.code == "unlike_source"
    pipeline = bench.pipeline([FaultyEngine(black)], lambda: BuiltinEngine(CPU))
    result = await bench.run(pipeline, photo)
    assert result.place.device is CPU
    # A smaller tile makes the same black, so the GPU is left after two attempts.
    assert [attempt.device for attempt in bench.attempts] == ["vulkan:0", "vulkan:0", "cpu"]
    assert likeness(result.path, photo) > 24


async def test_what_a_network_really_makes_of_odd_pictures_is_confirmed_not_refused(
    bench: Bench, tmp_path: Path
) -> None:
    # JPEG artefacts at quality 5: animevideov3 paints over them.
    odd = tmp_path / "odd.png"
    pictures = gallery(96, share=1.0)
    crumbs = next(p for p in pictures if (p.kind, p.number) == ODD)
    Image.fromarray(crumbs.pixels).save(odd)
    result = await bench.run(bench.pipeline([BuiltinEngine(CPU)]), odd)
    assert [attempt.outcome == "ok" for attempt in bench.attempts] == [False, True]
    assert "unlike its source" in bench.attempts[0].outcome
    assert result.finished.score == 0


async def test_a_cpu_that_makes_two_different_doubtful_pictures_is_not_believed(
    bench: Bench, photo: Path
) -> None:
    shades = iter(range(60, 200))

    def noisy(task: UpscaleTask) -> None:
        task.target.path.write_bytes(bytes([next(shades)]) * task.target.total_bytes)

    engine = FaultyEngine(noisy, CPU)
    with pytest.raises(EngineError, match="unlike its source"):
        await bench.run(bench.pipeline([engine]), photo)
    assert engine.tiles[:2] == [0, 150]


async def test_an_error_that_nothing_could_change_ends_the_job_at_once(
    bench: Bench, photo: Path
) -> None:
    def hopeless(_: UpscaleTask) -> None:
        raise EngineError("the network needs 4 channels", retryable=False)

    engine = FaultyEngine(hopeless)
    with pytest.raises(EngineError, match="4 channels"):
        await bench.run(bench.pipeline([engine], lambda: BuiltinEngine(CPU)), photo)
    assert engine.tiles == [0]


async def test_a_picture_too_wide_for_one_engine_goes_to_the_next_at_once(
    bench: Bench, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = FaultyEngine(right)
    monkeypatch.setattr(narrow, "max_rows", lambda _width, _scale: 0)
    result = await bench.run(bench.pipeline([narrow], lambda: BuiltinEngine(CPU)), photo)
    assert [(attempt.device, attempt.outcome) for attempt in bench.attempts] == [
        ("vulkan:0", "The picture is too wide for this engine."),
        ("cpu", "ok"),
    ]
    assert result.place.device is CPU
    assert narrow.tiles == []


async def test_percentages_never_go_back_within_an_attempt_and_stay_below_100(
    bench: Bench, photo: Path
) -> None:
    await bench.run(bench.pipeline([FaultyEngine(right)]), photo, tile_size=32)
    assert bench.percents == sorted(bench.percents)
    assert bench.percents[-1] == 95
    assert len(set(bench.percents)) > 10


async def test_a_network_that_makes_the_same_wrong_picture_twice_is_not_tried_again(
    bench: Bench, tmp_path: Path
) -> None:
    # Vertical stripes, a cosine of 5 pixels: animevideov3 turns them into garbage.
    row = (127 + 127.5 * np.cos(2 * np.pi * np.arange(192) / 5)).astype(np.uint8)
    stripes = tmp_path / "stripes.png"
    Image.fromarray(np.repeat(np.tile(row, (192, 1))[:, :, None], 3, axis=2)).save(stripes)
    engine = FaultyEngine(right, CPU)
    with pytest.raises(EngineError) as refused:
        await bench.run(bench.pipeline([engine]), stripes)
    assert refused.value.code == "unlike_source"
    assert len(bench.attempts) == 2
    assert f"{FAST} makes the same picture each time" in refused.value.message
    better = refused.value.message.partition("model_name=")[2].partition(",")[0].split(" or ")[0]
    assert better in {model.name for model in bench.models.models} - {FAST}
    done = await bench.run(bench.pipeline([BuiltinEngine(CPU)]), stripes, model_name=better)
    assert likeness(done.path, stripes) > 15


@pytest.mark.native
async def test_a_driver_that_corrupts_pictures_is_noticed_and_the_picture_still_comes_out_right(
    bench: Bench, tmp_path: Path
) -> None:
    engine = WrappingProgram(
        parts.native_binary(), None, flavour=Flavour.UPSCAYL, env=parts.lavapipe_env()
    )
    small = tmp_path / "small.png"
    with Image.open(DATA / "astronaut.png") as image:
        image.convert("RGB").resize((64, 64)).save(small)
    pipeline = bench.pipeline([engine], lambda: BuiltinEngine(CPU))
    result = await bench.run(pipeline, small)
    assert {attempt.engine for attempt in bench.attempts[:-1]} == {"binary"}
    assert bench.attempts[-1].engine == "builtin"
    assert "is unlike its source" in bench.attempts[0].outcome
    assert bench.attempts[-1].outcome == "ok"
    assert result.place.device is CPU
    assert likeness(result.path, small) > 24


@pytest.fixture
def tall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo of five bands when tiles are of 32 pixels."""
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)
    path = tmp_path / "tall.png"
    with Image.open(DATA / "coffee.jpg") as image:
        image.resize((48, 160)).save(path)
    return path


class InterruptedRunError(Exception):
    """Stands for a server that ends."""


async def test_a_later_run_goes_on_where_the_last_one_ended(bench: Bench, tall: Path) -> None:
    whole = await bench.run(bench.pipeline([BuiltinEngine(CPU)]), tall, tile_size=32)
    wanted = whole.path.read_bytes()
    assert not whole.resumed

    def interrupt(task: UpscaleTask) -> None:
        if task.top == 64:
            raise InterruptedRunError

    first, second = FaultyEngine(interrupt), FaultyEngine(right)
    for engine in (first, second):
        engine.most_rows = 32
    job = await bench.job(tall, tile_size=32)
    with pytest.raises(InterruptedRunError):
        await bench.go_on(bench.pipeline([first]), job)
    result = await bench.go_on(bench.pipeline([second]), replace(job, runs=1))
    assert first.rows == [(0, 32), (32, 64), (64, 96)]
    assert second.rows[0][0] in (32, 64)  # the second band may have been finished, or just not
    assert bench.percents[0] >= 1 + 94 // 5
    assert result.path.read_bytes() == wanted
    assert result.resumed


@pytest.mark.parametrize(("kind", "needs_rows"), [("jpg", True), ("png", False)])
async def test_rows_that_are_not_in_the_file_yet_are_not_believed_if_they_are_lost(
    bench: Bench, tall: Path, kind: str, needs_rows: bool
) -> None:
    engine = BuiltinEngine(CPU)
    whole = await bench.run(bench.pipeline([engine]), tall, tile_size=40, result_format=kind)

    def interrupt(task: UpscaleTask) -> None:
        if task.top == 80:
            raise InterruptedRunError

    faulty = FaultyEngine(interrupt)
    faulty.most_rows = 40  # 80 rows of the result, of which a JPEG has 64 after the first band
    job = await bench.job(tall, tile_size=40, result_format=kind)
    with pytest.raises(InterruptedRunError):
        await bench.go_on(bench.pipeline([faulty]), job)
    folder = bench.workspace.folder(job.id)
    assert (folder / "checkpoint").exists()
    await asyncio.to_thread((folder / "native.rgb").write_bytes, b"")  # as by a power cut
    result = await bench.go_on(bench.pipeline([FaultyEngine(right)]), replace(job, runs=1))
    assert result.path.read_bytes() == whole.path.read_bytes()
    assert result.resumed is not needs_rows


async def test_only_the_band_that_failed_is_made_again(bench: Bench, tall: Path) -> None:
    def spoil(task: UpscaleTask) -> None:
        if task.top == 64 and not spoilt:
            spoilt.append(task.top)
            with task.target.path.open("r+b") as file:
                file.seek(64 * 2 * task.target.row_bytes)
                file.write(bytes(32 * 2 * task.target.row_bytes))

    spoilt: list[int] = []
    engine = FaultyEngine(spoil)
    engine.most_rows = 32
    pipeline = bench.pipeline([engine], lambda: BuiltinEngine(CPU))
    result = await bench.run(pipeline, tall, tile_size=32)
    assert [attempt.outcome == "ok" for attempt in bench.attempts] == [False, True]
    assert engine.rows.count((0, 32)) == engine.rows.count((32, 64)) == 1
    assert likeness(result.path, tall) > 24


async def test_a_doubtful_band_is_settled_by_itself(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)
    crumbs = next(p for p in gallery(96, share=1.0) if (p.kind, p.number) == ODD)
    with Image.open(DATA / "coffee.jpg") as image:
        calm = np.asarray(image.resize((96, 96)))
    odd = tmp_path / "odd.png"
    Image.fromarray(np.concatenate((calm, crumbs.pixels, calm))).save(odd)
    engine = FaultyEngine(right, CPU)
    result = await bench.run(bench.pipeline([engine]), odd, tile_size=96)
    assert [attempt.outcome == "ok" for attempt in bench.attempts] == [False, True]
    assert engine.rows == [(0, 288), (96, 192), (192, 288)]
    assert result.finished.score == 0
    assert likeness(result.path, odd) > 20
