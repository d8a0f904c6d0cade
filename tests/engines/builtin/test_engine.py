"""The builtin engine: its process, its progress, its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from testkit import parts
from testkit.memory import peak
from testkit.networks import (
    enlarged_plainly,
    make_task,
    photo,
    psnr,
    result,
    shipped,
    write_network,
    write_repeater,
)
from testkit.waiting import until
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import (
    CPU,
    Device,
    DeviceKind,
    Engine,
    ModelFiles,
    Progress,
    UpscaleTask,
)
from upscaled.errors import EngineError

SOFTWARE = Device(0, "a software GPU", DeviceKind.SOFTWARE)


@contextlib.asynccontextmanager
async def engine_on(
    device: Device = CPU,
    memory_limit_mb: int | None = None,
    at_once: int = 1,
    library: CpuLibrary = CpuLibrary.NCNN,
) -> AsyncIterator[BuiltinEngine]:
    """Provide an engine that is closed at the end."""
    engine = BuiltinEngine(
        device,
        threads=2,
        memory_limit_mb=memory_limit_mb,
        at_once=at_once,
        library=library,
    )
    try:
        yield engine
    finally:
        await engine.close()


def pid_of(engine: BuiltinEngine) -> int:
    assert engine.pid is not None
    return engine.pid


async def test_it_keeps_its_process_and_tells_its_progress(tmp_path: Path) -> None:
    pixels = photo(80, 70)
    task = make_task(tmp_path, pixels, write_repeater(tmp_path, "n", 2), tile_size=32)
    async with engine_on() as engine:
        typed: Engine = engine
        told: list[Progress] = []
        outcome = await typed.upscale(task, told.append)
        assert outcome.tile_size == 32
        assert outcome.seconds > 0
        # Between the ends of tiles, the time that has passed moves the share.
        shares = [progress.share for progress in told]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert {done / 9 for done in range(10)} <= set(shares)
        rows = [progress.rows for progress in told]
        assert rows == sorted(rows)
        assert set(rows) <= {0, 32, 64, 70}
        assert rows[-1] == 70
        assert {progress.tile_size for progress in told} == {32}
        assert np.array_equal(result(task), enlarged_plainly(pixels, 2))
        pid = pid_of(engine)
        await engine.upscale(task, told.append)
        assert engine.pid == pid
    assert not psutil.pid_exists(pid)


async def test_a_picture_smaller_than_a_tile_is_one_tile(tmp_path: Path) -> None:
    task = make_task(tmp_path, photo(70, 40), write_repeater(tmp_path, "n", 2))
    async with engine_on() as engine:
        told: list[Progress] = []
        outcome = await engine.upscale(task, told.append)
    assert outcome.tile_size == 70
    shown = [(one.share, one.rows, one.tile_size) for one in told]
    assert (shown[0], shown[-1]) == ((0.0, 0, 70), (1.0, 40, 70))
    assert {rows for _, rows, _ in shown[:-1]} == {0}


def small_tasks(folder: Path, model: ModelFiles, sizes: list[tuple[int, int]]) -> list[UpscaleTask]:
    """Return tasks on pictures of several sizes that may share an engine of two places."""
    tasks = []
    for number, size in enumerate(sizes):
        own = folder / f"{model.stem}{number}"
        own.mkdir()
        tasks.append(dataclasses.replace(make_task(own, photo(*size), model), shares=2))
    return tasks


async def by(library: CpuLibrary, stem: str = "") -> Callable[[Progress], None]:
    """Return a callback that checks that this library does the work."""
    name = await asyncio.to_thread(runs(library, stem).with_version)

    def check(progress: Progress) -> None:
        assert progress.library == name

    return check


def runs(library: CpuLibrary, stem: str) -> CpuLibrary:
    """Return what runs a network where a library is to run it: x4plus is too deep for bfloat16."""
    return CpuLibrary.OPENVINO if stem == DEEP and library is BF16 else library


DEEP, BF16 = "realesrgan-x4plus", CpuLibrary.OPENVINO_BF16
LIBRARIES = pytest.mark.parametrize("library", list(CpuLibrary))


@LIBRARIES
@pytest.mark.parametrize(
    ("stem", "size", "limit_mb"),
    [
        ("realesr-animevideov3-x2", (451, 300), 250),
        ("realesr-animevideov3-x4", (451, 300), 700),
        ("realesrgan-x4plus", (60, 40), 1000),  # two tiles at once
        ("realesrgan-x4plus", (40, 30), 400),  # lean
    ],
)
async def test_a_memory_limit_is_kept(
    tmp_path: Path,
    models_dir: Path,
    stem: str,
    size: tuple[int, int],
    limit_mb: int,
    library: CpuLibrary,
) -> None:
    task = make_task(tmp_path, photo(*size, left=0, top=0), shipped(models_dir, stem))
    told: list[Progress] = []
    async with engine_on(memory_limit_mb=limit_mb, library=library) as engine:
        outcome = await engine.upscale(task, told.append)
        assert engine.pid is not None
        assert peak(engine.pid) < limit_mb << 20
    assert outcome.tile_size >= 32
    fits = (stem, limit_mb) != ("realesrgan-x4plus", 400)  # that is ncnn's, and lean
    expected = runs(library, stem) if fits else CpuLibrary.NCNN
    assert {one.library for one in told} == {await asyncio.to_thread(expected.with_version)}
    reduced = result(task).reshape(size[1], task.model.native_scale, size[0], -1, 3).mean((1, 3))
    assert psnr(reduced.astype(np.uint8), photo(*size, left=0, top=0)) > 25


async def test_a_network_that_does_not_fit_is_an_error_that_names_the_setting(
    tmp_path: Path, models_dir: Path
) -> None:
    task = make_task(tmp_path, photo(40, 30), shipped(models_dir, "realesrgan-x4plus"))
    async with engine_on(memory_limit_mb=150) as engine:
        with pytest.raises(EngineError, match=r"raise upscaler\.memory_limit_mb to") as caught:
            await engine.upscale(task, lambda _: None)
    assert not caught.value.retryable


@LIBRARIES
async def test_networks_kept_make_room_for_the_one_that_is_wanted(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    async with engine_on(memory_limit_mb=620, library=library) as engine:
        for stem in ("realesrgan-x4plus-anime", "realesrgan-x4plus"):
            task = make_task(tmp_path, photo(34, 20), shipped(models_dir, stem))
            await engine.upscale(task, await by(library, stem))
        assert engine.pid is not None
        assert peak(engine.pid) < 620 << 20


@LIBRARIES
async def test_two_networks_at_once_keep_to_one_limit(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    plus, anime = (
        small_tasks(tmp_path, shipped(models_dir, stem), [(64, 48)] * 2)
        for stem in ("realesrgan-x4plus", "realesrgan-x4plus-anime")
    )
    tasks = [plus[0], anime[0], plus[1], anime[1]]
    async with engine_on(memory_limit_mb=900, at_once=2, library=library) as engine:
        checks = [await by(library, task.model.stem) for task in tasks]
        await asyncio.gather(*map(engine.upscale, tasks, checks))
        assert engine.pid is not None
        assert peak(engine.pid) < 900 << 20
    assert np.array_equal(result(plus[0]), result(plus[1]))


@LIBRARIES
async def test_pictures_of_many_sizes_leave_nothing_behind(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    sizes = [(20, 50), (24, 56), (28, 60), (28, 70), (40, 58), (60, 44), (64, 44)]
    tasks = small_tasks(tmp_path, shipped(models_dir, "realesrgan-x4plus-anime"), sizes)
    async with engine_on(memory_limit_mb=600, at_once=2, library=library) as engine:
        held = []
        for task in [*tasks, *reversed(tasks)]:
            await engine.upscale(task, await by(library))
            held.append(psutil.Process(engine.pid).memory_info().rss)
        assert held[-1] < held[len(tasks)] + (40 << 20)
        assert engine.pid is not None
        assert peak(engine.pid) < 600 << 20


@LIBRARIES
async def test_networks_that_are_idle_count_beside_those_that_begin_together(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    plus, anime = (
        small_tasks(tmp_path, shipped(models_dir, stem), [(64, 44)] * 3)
        for stem in ("realesrgan-x4plus", "realesrgan-x4plus-anime")
    )
    async with engine_on(memory_limit_mb=1100, at_once=2, library=library) as engine:
        deep, other = await by(library, DEEP), await by(library)
        await engine.upscale(plus[0], deep)  # loaded for both threads
        await asyncio.gather(*(engine.upscale(task, deep) for task in plus[1:]))
        await asyncio.gather(*(engine.upscale(task, other) for task in anime[:2]))
        assert engine.pid is not None
        assert peak(engine.pid) < 1100 << 20


@pytest.mark.parametrize(("limit_mb", "taken"), [(4000, 1), (700, 0)])
async def test_huge_pages_are_taken_only_where_there_is_memory_to_spare(
    tmp_path: Path, models_dir: Path, limit_mb: int, taken: int
) -> None:
    task = make_task(tmp_path, photo(40, 30), shipped(models_dir, "realesrgan-x4plus"))
    async with engine_on(memory_limit_mb=limit_mb) as engine:
        await engine.upscale(task, lambda _: None)
        status = Path(f"/proc/{engine.pid}/status").read_text("ascii")
    assert f"THP_enabled:\t{taken}" in status.splitlines()


async def test_the_tile_that_was_told_gives_the_same_bytes_and_a_band_gives_its_part_of_them(
    tmp_path: Path, models_dir: Path
) -> None:
    model = shipped(models_dir, "realesr-animevideov3-x3")
    pixels = photo(300, 260, left=0, top=0)
    async with engine_on(memory_limit_mb=150) as engine:
        task = make_task(tmp_path, pixels, model)
        tile = (await engine.upscale(task, lambda _: None)).tile_size
        whole = result(task)
        task.target.path.write_bytes(bytes(task.target.total_bytes))
        await engine.upscale(make_task(tmp_path, pixels, model, tile_size=tile), lambda _: None)
        assert np.array_equal(result(task), whole)
        task.target.path.write_bytes(bytes(task.target.total_bytes))
        rows = (tile, 2 * tile)
        band = make_task(tmp_path, pixels, model, rows=rows, tile_size=tile)
        await engine.upscale(band, lambda _: None)
    assert 2 * tile <= 260
    assert np.array_equal(result(task)[3 * tile : 6 * tile], whole[3 * tile : 6 * tile])


async def test_cancelling_kills_the_process_within_a_second_and_the_next_task_works(
    tmp_path: Path, models_dir: Path
) -> None:
    slow = make_task(
        tmp_path, photo(200, 200, left=0, top=0), shipped(models_dir, "realesrgan-x4plus")
    )
    async with engine_on() as engine:
        quick = write_repeater(tmp_path, "n", 2)
        await engine.upscale(make_task(tmp_path, photo(20, 20), quick), lambda _: None)
        pid = pid_of(engine)
        slow = make_task(tmp_path, photo(200, 200, left=0, top=0), slow.model)
        running = asyncio.create_task(engine.upscale(slow, lambda _: None), name="slow")
        await until(lambda: psutil.Process(pid).memory_info().rss >= 250 << 20)  # it computes
        started = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert time.monotonic() - started < 1.0
        assert not psutil.pid_exists(pid)
        task = make_task(tmp_path, photo(20, 20), quick)
        await engine.upscale(task, lambda _: None)
        assert np.array_equal(result(task), enlarged_plainly(photo(20, 20), 2))


async def test_a_process_that_is_killed_is_an_error_and_is_replaced(tmp_path: Path) -> None:
    task = make_task(tmp_path, photo(200, 200), write_repeater(tmp_path, "n", 2), tile_size=32)
    async with engine_on() as engine:
        with pytest.raises(EngineError, match="signal 9") as caught:
            await engine.upscale(task, lambda _: os.kill(pid_of(engine), signal.SIGKILL))
        assert caught.value.retryable
        assert caught.value.message.startswith("The builtin engine (cpu) process ended")
        await engine.upscale(task, lambda _: None)


async def test_values_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    logarithm = write_network(tmp_path, "n", "UnaryOp u 1 1 data output 0=8")
    async with engine_on() as engine:
        task = make_task(tmp_path, black, logarithm)
        with pytest.raises(EngineError, match="The network returned values that are not numbers"):
            await engine.upscale(task, lambda _: None)
        assert engine.pid is not None


async def test_a_model_that_cannot_be_read_is_an_error_nothing_can_mend(tmp_path: Path) -> None:
    model = write_repeater(tmp_path, "n", 2)
    task = make_task(tmp_path, photo(20, 20), model)
    async with engine_on() as engine:
        model.param.write_text("rubbish")
        with pytest.raises(EngineError, match="not an ncnn network") as caught:
            await engine.upscale(task, lambda _: None)
        assert not caught.value.retryable
        model.bin.unlink()
        with pytest.raises(EngineError, match=r"n\.bin failed: No such file"):
            await engine.upscale(task, lambda _: None)


async def test_a_changed_model_is_loaded_anew_and_many_models_do_not_pile_up(
    tmp_path: Path,
) -> None:
    pixels = photo(20, 20)
    async with engine_on() as engine:
        for factor in (2, 3, 4, 5, 2):
            task = make_task(tmp_path, pixels, write_repeater(tmp_path, f"n{factor}", factor))
            await engine.upscale(task, lambda _: None)
            assert np.array_equal(result(task), enlarged_plainly(pixels, factor))
        task = make_task(tmp_path, pixels, write_repeater(tmp_path, "n2", 3.0))
        os.utime(task.model.param, ns=(1, 1))
        await engine.upscale(task, lambda _: None)
        assert np.array_equal(result(task), enlarged_plainly(pixels, 3))


async def test_a_device_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    task = make_task(tmp_path, photo(20, 20), write_repeater(tmp_path, "n", 2))
    async with engine_on(SOFTWARE) as engine:
        with pytest.raises(EngineError, match="no Vulkan device 0") as caught:
            await engine.upscale(task, lambda _: None)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("driver", "stem"),
    [
        ("lavapipe", "realesr-animevideov3-x2"),
        ("lavapipe", "realesrgan-x4plus-anime"),
        ("SwiftShader", "realesr-animevideov3-x2"),
    ],
)
async def test_vulkan_gives_the_picture_of_the_cpu(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, driver: str, stem: str
) -> None:
    env = parts.lavapipe_env() if driver == "lavapipe" else parts.swiftshader_env()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    model = shipped(models_dir, stem)
    pixels = photo(40, 36)
    async with engine_on() as engine:
        task = make_task(tmp_path, pixels, model, tile_size=32)
        await engine.upscale(task, lambda _: None)
        expected = result(task)
    task.target.path.unlink()
    async with engine_on(SOFTWARE) as engine:
        task = make_task(tmp_path, pixels, model, tile_size=32)
        await engine.upscale(task, lambda _: None)
        assert psnr(result(task), expected) > 50
        automatic = make_task(tmp_path, pixels, model)
        assert (await engine.upscale(automatic, lambda _: None)).tile_size == 40


def test_the_servers_half_loads_no_heavy_library() -> None:
    code = (
        "import sys, upscaled.engines.builtin.engine, upscaled.engines.devices;"
        "import upscaled.models.catalog;"
        "print([name for name in ('ncnn', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
