"""Methods to run a network are measured in real processes; a task runs by the one it names."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from testkit.networks import make_task, photo, result, shipped, write_network
from testkit.waiting import until
from upscaled.engines.builtin import calibration as calibration_module
from upscaled.engines.builtin import processor
from upscaled.engines.builtin.calibration import Calibration
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.parallelism import Resources, parallelism_for
from upscaled.engines.builtin.tile_plan import plan_on_cpu
from upscaled.engines.builtin.tile_size import choose_tile
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import CPU, ModelFiles, Progress
from upscaled.pictures import Size
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import WorkerDiedError

NOWHERE = Path("/nonexistent/stat")
"""The machine counts as quiet, whatever runs beside the tests."""
NCNN, F32, BF16 = CpuLibrary.NCNN, CpuLibrary.OPENVINO, CpuLibrary.OPENVINO_BF16


async def test_all_ways_of_a_network_are_measured(models_dir: Path) -> None:
    model = shipped(models_dir, "realesr-animevideov3-x2")
    table = await Calibration(model, (NCNN, F32), 2, None, NOWHERE).run()
    assert table.name == model.stem
    assert not table.failures
    methods = {(pace.library, pace.threads, pace.at_once) for pace in table.paces}
    assert methods == {(NCNN, 2, 1), (NCNN, 1, 2), (F32, 2, 1), (F32, 1, 2)}
    assert all(pace.seconds_per_pixel > 0 and pace.memory_mb > 20 for pace in table.paces)
    for library, threads, _ in methods:
        sides = [p.side for p in table.paces if (p.library, p.threads) == (library, threads)]
        assert sides[:2] == [64, 128]
    assert table.decibels.keys() == {F32}
    assert table.decibels[F32].keys() == {"slope", "photo", "text", "noise"}
    assert min(table.decibels[F32].values()) > 80


async def test_the_deepest_network_is_not_like_enough_in_bfloat16(models_dir: Path) -> None:
    model = shipped(models_dir, "realesrgan-x4plus")
    calibration = Calibration(model, (BF16,), 2, None, NOWHERE)
    calibration._left = calibration._left[:1]
    table = await calibration.run()
    if "avx512f" not in await asyncio.to_thread(processor.flags):
        # OpenVINO computes most of it in 32 bits there, and the service never asks for it.
        assert table.decibels[BF16]["slope"] < 70
        return
    assert table.decibels[BF16]["slope"] < 50
    assert not table.holds(BF16)
    # The other methods of a library that is out of the question take no more time.
    assert {pace.threads for pace in table.paces} == {2}


async def test_what_a_library_cannot_run_is_told_and_the_others_count(tmp_path: Path) -> None:
    made = write_network(
        tmp_path,
        "n",
        "Interp up 1 1 data large 0=1 1=2.0 2=2.0",
        "Clip cut 1 1 large output 0=0.0 1=1.0",
    )
    model = ModelFiles(made.param, made.bin, 2, "data", "output", 1000)
    table = await Calibration(model, (NCNN, F32), 2, None, NOWHERE).run()
    assert "Clip is not a layer that is known" in table.failures[F32]
    assert {pace.library for pace in table.paces} == {NCNN}


async def test_a_way_that_does_not_fit_into_the_memory_is_not_measured(models_dir: Path) -> None:
    model = shipped(models_dir, "realesrgan-x4plus")
    table = await Calibration(model, (F32,), 2, 300, NOWHERE).run()
    assert not table.paces
    assert "too little" in table.failures[F32]


async def test_an_interruption_kills_the_process_and_what_was_measured_is_kept(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[WorkerClient] = []

    class Watched(WorkerClient):
        async def request(self, *arguments: object, **named: object) -> dict[str, object]:
            clients.append(self)
            return await super().request(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration_module, "WorkerClient", Watched)
    calibration = Calibration(
        shipped(models_dir, "realesr-animevideov3-x2"), (NCNN,), 2, None, NOWHERE
    )
    running = asyncio.create_task(calibration.run())
    await until(lambda: len(clients) == 2 and clients[1].pid, 120)
    pid = clients[1].pid
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert not await asyncio.to_thread(Path(f"/proc/{pid}").exists)
    first = calibration.table.paces
    assert {pace.threads for pace in first} == {2}
    table = await calibration.run()
    assert table.paces[: len(first)] == first
    assert {pace.threads for pace in table.paces} == {1, 2}
    assert len(clients) == 3


async def test_a_process_that_dies_rules_its_library_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_arguments: object, **_named: object) -> dict[str, object]:
        raise WorkerDiedError("calibration", -11, "")

    monkeypatch.setattr(WorkerClient, "request", dies)
    model = write_network(tmp_path, "n", "Noop x 1 1 data output")
    table = await Calibration(model, (NCNN,), 2, None, NOWHERE).run()
    assert not table.paces
    assert "ended with signal 11" in table.failures[NCNN]


@pytest.mark.parametrize("library", [NCNN, F32, BF16])
async def test_a_task_runs_in_its_way_whatever_the_engine_prefers(
    tmp_path: Path, models_dir: Path, library: CpuLibrary
) -> None:
    pixels, model = photo(300, 120, left=0), shipped(models_dir, "realesr-animevideov3-x2")
    task = dataclasses.replace(
        make_task(tmp_path, pixels, model), method=CpuMethod(library, 64, 1.5)
    )
    seen: list[Progress] = []
    engine = BuiltinEngine(CPU, threads=2, library=F32 if library is NCNN else NCNN)
    try:
        outcome = await engine.upscale(task, seen.append)
        first = result(task)
        # The bytes do not depend on how the cores are used.
        for doubling in (0.5, 3.0):
            other = dataclasses.replace(task, method=CpuMethod(library, 64, doubling))
            await engine.upscale(other, seen.append)
            assert (result(other) == first).all()
    finally:
        await engine.close()
    assert outcome.tile_size <= 64
    name = await asyncio.to_thread(library.with_version)
    assert {progress.library for progress in seen} == {name}
    assert {(p.tiles_at_once, p.threads_per_tile) for p in seen} == {(2, 1), (1, 2)}


def test_tiles_and_threads_follow_what_was_measured() -> None:
    picture, memory = Size(1600, 1200), 1 << 33
    rule = Resources(2, memory)
    assert choose_tile(picture, 4000, rule, memory) == 400
    assert parallelism_for(picture, 400, 4000, rule).workers == 2
    alike = Resources(2, memory, largest_tile=128, doubling=0.9)
    assert choose_tile(picture, 4000, alike, memory) <= 128
    assert parallelism_for(picture, 128, 4000, alike).workers == 1


def test_a_method_of_a_library_that_does_not_fit_changes_nothing_for_the_one_that_does(
    models_dir: Path,
) -> None:
    model = shipped(models_dir, "realesrgan-x4plus")
    stored, method = model.bin.stat().st_size, CpuMethod(F32, 48, 0.5)
    for limit, library in ((700 << 20, F32), (300 << 20, NCNN)):
        plan = plan_on_cpu(
            model, stored, Size(600, 600), threads=2, limit=limit, library=F32, method=method
        )
        rule = plan_on_cpu(model, stored, Size(600, 600), threads=2, limit=limit, library=F32)
        assert plan.library is library
        assert (plan == rule) is (library is NCNN)
