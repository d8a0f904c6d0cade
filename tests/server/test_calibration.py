"""From outside: a server that is idle measures, and later jobs run by the method it found."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA
from testkit.server_process import ServerProcess, server_process
from testkit.submissions import completed, only_network
from testkit.waiting import until
from upscaled.engines.builtin.cpu_library import CpuLibrary, possible_libraries

STEM = "realesr-animevideov3-x2"
SETTINGS: dict[str, object] = {
    "upscaler.calibrate": True,
    "upscaler.default_model": "realesr-animevideov3",
    "upscaler.default_scale": 2,
}


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    """A folder with the quickest network alone."""
    return only_network(models_dir, STEM, tmp_path / "models")


def picture(folder: Path) -> Path:
    path = folder / "coffee.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((420, 280)).save(path)
    return path


def told(server: ServerProcess, message: str) -> dict[str, Any] | None:
    """Return the event of this message in the log, if it is there."""
    found = [one for one in server.events() if message in (one.get("message"), one.get("event"))]
    return found[-1] if found else None


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine counts as quiet, whatever runs beside the tests."""
    monkeypatch.setenv("PROC_STAT", "/nonexistent/stat")


async def engine_of(server: ServerProcess, content: bytes) -> dict[str, Any]:
    """Submit a picture and return what its receipt says about the engine."""
    _, receipt = await completed(server, content, {"format": "png"})
    engine: dict[str, Any] = receipt["engine"]
    return engine


def calibrations(server: ServerProcess) -> list[psutil.Process]:
    """Return the server's processes that measure; the engine's own serves several tasks."""
    children = psutil.Process(server.pid).children(recursive=True)
    workers = [one for one in children if "upscaled.engines.builtin.worker" in one.cmdline()]
    return workers[1:]


async def test_a_server_with_an_empty_data_folder_measures_and_jobs_follow(
    models: Path, tmp_path: Path
) -> None:
    content = await asyncio.to_thread(picture(tmp_path).read_bytes)
    async with server_process(tmp_path / "server", models, SETTINGS) as server:
        first = await engine_of(server, content)
        assert not first["measured"]
        event = await until(lambda: told(server, "network measured"), 240)
        assert event is not None
        assert event["model"] == STEM
        second = await engine_of(server, content)
    assert second["measured"]
    chosen = CpuLibrary(event["library"])
    assert second["library"] == await asyncio.to_thread(chosen.with_version)
    kept = json.loads(await asyncio.to_thread((server.data_dir / "ways.json").read_bytes))
    (table,) = kept["networks"].values()
    measured = {pace["library"] for pace in table["paces"]}
    assert measured == {one.value for one in await asyncio.to_thread(possible_libraries)}
    # A start later it is known at once, and nothing is measured again.
    async with server_process(tmp_path / "server", models, SETTINGS) as server:
        third = await engine_of(server, content)
    assert third["measured"]
    assert third["library"] == second["library"]


async def test_a_job_ends_the_measurement_before_it_runs(models: Path, tmp_path: Path) -> None:
    content = await asyncio.to_thread(picture(tmp_path).read_bytes)
    async with server_process(tmp_path / "server", models, SETTINGS) as server:
        (process,) = await until(lambda: calibrations(server), 120)
        engine = await engine_of(server, content)
        assert not process.is_running()
        assert not engine["measured"]
        assert await until(lambda: told(server, "network measured"), 240)


def test_an_emulated_processor_allows_other_ways_and_the_commands_show_them(
    models: Path, tmp_path: Path
) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "PROC_STAT": "/nonexistent/stat",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "UPSCALED_UPSCALER_MODELS_PATH": str(models),
        "UPSCALED_UPSCALER_DEFAULT_MODEL": "realesr-animevideov3",
        "UPSCALED_UPSCALER_ENGINE": "builtin",
        "UPSCALED_UPSCALER_GPU_IDS": "-1",
        "UPSCALED_STORAGE_DATA_DIR": str(tmp_path / "data"),
    }
    done = run("bench", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)
    libraries = {pace["library"] for pace in table["paces"]}
    assert "ncnn" in libraries
    assert "openvino-bf16" not in libraries
    again = run("bench", "realesr-animevideov3", env=env)
    assert "Measuring" not in again.stderr
    assert f"{STEM}\n" in again.stdout
    assert "chosen: " in again.stdout
    doctor = run("doctor", env=env)
    assert "Measured methods on the processor" in doctor.stdout
    assert "chosen: " in doctor.stdout
    # What holds for one processor does not for another.
    other = run("doctor", env=env | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"})
    if possible_libraries()[-1] is CpuLibrary.OPENVINO_BF16:
        assert "chosen: " not in other.stdout
    forced = run("bench", env=env | {"UPSCALED_UPSCALER_CPU_LIBRARY": "ncnn"})
    assert forced.returncode == 2
    assert "upscaler.cpu_library forces a library" in forced.stderr


def test_on_a_busy_machine_nothing_is_chosen_and_the_commands_say_so(
    models: Path, tmp_path: Path
) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "UPSCALED_UPSCALER_MODELS_PATH": str(models),
        "UPSCALED_UPSCALER_ENGINE": "builtin",
        "UPSCALED_UPSCALER_GPU_IDS": "-1",
        "UPSCALED_STORAGE_DATA_DIR": str(tmp_path / "data"),
    }
    burner = [sys.executable, "-c", "while True: pass"]
    burning = [subprocess.Popen(burner) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        done = run("bench", env=env)
    finally:
        for process in burning:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stderr
    assert "Other programs keep the processor busy; the next try follows in 10 s." in done.stderr
    for text in (done.stdout, run("doctor", env=env).stdout):
        assert "chosen, provisionally: what the rule of cpu_library gives" in text
        assert "methods are left to measure" in text
    quiet = run("bench", env=env | {"PROC_STAT": "/nonexistent/stat"})
    assert "Measuring" in quiet.stderr
    assert "chosen: " in quiet.stdout
