"""The engine ``binary``: against the real upscayl-bin, and against stand-ins for its faults."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest

from testkit import parts
from testkit.binary_tasks import ignore, photo, result, task_for
from upscaled.engines.binary.engine import (
    BinaryEngine,
    Flavour,
    find_program,
    max_rows,
    probe,
)
from upscaled.engines.engine import CPU, Device, DeviceKind, ModelFiles, Progress, UpscaleTask
from upscaled.errors import EngineError
from upscaled.pictures import RawImage, Size

STAND_IN = Path(__file__).parent / "stand_in.py"


@pytest.mark.native
async def test_probe_tells_the_real_program_from_the_official_one(
    program: Callable[..., Path],
) -> None:
    real = await probe(parts.native_binary())
    assert real.flavour is Flavour.UPSCAYL
    assert len(real.sha256) == 64
    assert (await probe(program())).flavour is Flavour.OFFICIAL


# --- stand-ins ----------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Make a stand-in for the official program, or one of other content."""

    def make(content: str | None = None, name: str = "realesrgan-ncnn-vulkan") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        call = f'exec {shlex.quote(sys.executable)} -S {shlex.quote(str(STAND_IN))} "$@"'
        path.write_text(f"#!/bin/sh\n{content or call}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def stand_in(program: Callable[..., Path], tmp_path: Path) -> Callable[..., BinaryEngine]:
    """Make an engine on a stand-in that does ``fault``."""

    def make(
        fault: str = "",
        device: Device | None = None,
        *,
        timeout_seconds: float | None = None,
        stall_seconds: float | None = None,
    ) -> BinaryEngine:
        env: Mapping[str, str] = {
            "STAND_IN_FAULT": fault,
            "STAND_IN_LOG": str(tmp_path / "call.json"),
        }
        return BinaryEngine(
            program(),
            device,
            env=env,
            timeout_seconds=timeout_seconds,
            stall_seconds=stall_seconds,
        )

    return make


OTHERS: set[psutil.Process] = set()
"""Children that belong to servers which other tests share."""


@pytest.fixture(autouse=True)
def know_the_others() -> None:
    OTHERS.clear()
    OTHERS.update(psutil.Process().children(recursive=True))


@pytest.fixture
def small(tmp_path: Path, animevideo_x2: ModelFiles) -> UpscaleTask:
    return task_for(tmp_path / "job", photo(12, 40), animevideo_x2)


def assert_clean(task: UpscaleTask) -> None:
    assert task.workdir is not None
    assert list(task.workdir.iterdir()) == []
    mine = psutil.Process().children(recursive=True)
    assert [child for child in mine if child not in OTHERS] == []


async def test_the_official_program_gets_its_own_flags(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, tmp_path: Path
) -> None:
    engine = stand_in(device=Device(1, "Stand-in", DeviceKind.DISCRETE))
    task = UpscaleTask(
        small.source, small.target, small.model, 0, 40, 48, tta=True, workdir=small.workdir
    )
    await engine.upscale(task, ignore)
    argv = json.loads((tmp_path / "call.json").read_text())["argv"]
    expected = "-i source.ppm -o target.png -m models -n network -s 2 -t 48 -j 1:1:1 -f png -g 1 -x"
    assert " ".join(argv) == expected
    source = np.fromfile(task.source.path, np.uint8).reshape(40, 12, 3)
    assert (result(task) == source.repeat(2, axis=0).repeat(2, axis=1)).all()


async def test_no_device_is_named_when_none_was_chosen(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, tmp_path: Path
) -> None:
    await stand_in().upscale(small, ignore)
    argv = json.loads((tmp_path / "call.json").read_text())["argv"]
    assert "-g" not in argv
    assert "-x" not in argv


@pytest.mark.parametrize(("top", "bottom"), [(0, 15), (15, 25), (25, 40), (3, 4)])
async def test_exactly_the_tasks_rows_are_written(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, top: int, bottom: int
) -> None:
    task = UpscaleTask(small.source, small.target, small.model, top, bottom, workdir=small.workdir)
    await stand_in().upscale(task, ignore)
    source = np.fromfile(task.source.path, np.uint8).reshape(40, 12, 3)
    expected = source.repeat(2, axis=0).repeat(2, axis=1)
    expected[: top * 2] = 0
    expected[bottom * 2 :] = 0
    assert (result(task) == expected).all()


async def test_percentages_with_commas_and_decoration_are_progress(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask
) -> None:
    told: list[Progress] = []
    await stand_in("slow_decorated").upscale(small, told.append)
    shares = [progress.share for progress in told]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    assert set(shares) >= {0.125, 0.5}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("die_halfway", "no whole PNG"),
        ("die_without_a_file", "The native program crashed with signal 11"),
        ("no_file", "without an error and without a result"),
        ("truncated", "no whole PNG"),
        ("no_png", "no whole PNG"),
        ("wrong_size", "The program's result is 24×79 RGB where 24×80 RGB was expected"),
        ("failure_line", "The native program failed: vkQueueSubmit failed -4."),
    ],
)
async def test_a_bad_result_is_an_error_whatever_the_exit_status(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, fault: str, sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence) as caught:
        await stand_in(fault).upscale(small, ignore)
    assert caught.value.retryable
    assert not result(small).any()
    assert_clean(small)


async def test_a_crash_after_a_good_result_is_forgiven_and_logged(
    stand_in: Callable[..., BinaryEngine],
    small: UpscaleTask,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await stand_in("crash_after").upscale(small, ignore)
    assert result(small).any()
    assert "ended with status -11 after writing a result" in caplog.text


@pytest.mark.parametrize("fault", ["hang", "ignore_sigterm", "endless_lines", "endless_line"])
async def test_a_program_that_never_ends_is_killed_when_its_time_is_up(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, fault: str
) -> None:
    with pytest.raises(EngineError, match=r"did not finish within 1\.5 seconds"):
        await stand_in(fault, timeout_seconds=1.5).upscale(small, ignore)
    assert_clean(small)


async def test_a_program_without_progress_is_killed(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask
) -> None:
    with pytest.raises(EngineError, match=r"made no progress for 1 seconds"):
        await stand_in("endless_lines", stall_seconds=1).upscale(small, ignore)
    assert_clean(small)


@pytest.mark.parametrize("fault", ["hang", "ignore_sigterm"])
async def test_cancelling_ends_the_program_and_removes_its_files(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, fault: str
) -> None:
    begun = asyncio.Event()
    running = asyncio.create_task(stand_in(fault).upscale(small, lambda _: begun.set()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert_clean(small)


async def test_close_ends_a_running_task_with_an_error(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask
) -> None:
    engine, begun = stand_in("hang"), asyncio.Event()
    running = asyncio.create_task(engine.upscale(small, lambda _: begun.set()))
    await begun.wait()
    await engine.close()
    assert_clean(small)
    with pytest.raises(EngineError, match="closed"):
        await running


async def test_a_grandchild_does_not_outlive_the_program(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, tmp_path: Path
) -> None:
    await stand_in("grandchild").upscale(small, ignore)
    assert result(small).any()
    pid = json.loads((tmp_path / "call.json").read_text())["pid"]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_progress_callback_that_fails_ends_the_program(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask
) -> None:
    def fail(_: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stand_in("hang").upscale(small, fail)
    assert_clean(small)


async def test_a_missing_model_file_is_noticed_before_the_call(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, tmp_path: Path
) -> None:
    param = tmp_path / "lone.param"
    shutil.copyfile(small.model.param, param)
    lone = dataclasses.replace(small.model, param=param, bin=param.with_suffix(".bin"))
    task = UpscaleTask(small.source, small.target, lone, 0, 40, workdir=small.workdir)
    with pytest.raises(EngineError, match=r"lone\.bin is missing") as caught:
        await stand_in().upscale(task, ignore)
    assert not caught.value.retryable
    assert not (tmp_path / "call.json").exists()
    assert_clean(small)


async def test_a_short_source_is_refused(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask
) -> None:
    os.truncate(small.source.path, 100)
    with pytest.raises(EngineError, match="shorter than 12×40 pixels"):
        await stand_in().upscale(small, ignore)
    assert_clean(small)


async def test_more_than_an_int_can_count_is_refused_before_the_start(
    stand_in: Callable[..., BinaryEngine], small: UpscaleTask, tmp_path: Path
) -> None:
    model = dataclasses.replace(small.model, native_scale=4)
    source = RawImage(tmp_path / "never-read", Size(6700, 6700))
    target = RawImage(tmp_path / "never-written", source.size.times(4))
    with pytest.raises(EngineError, match="more than the native program can process"):
        await stand_in().upscale(UpscaleTask(source, target, model, 0, 6700), ignore)
    rows = max_rows(6700, 4)
    assert 800 < rows < 840
    assert (6700 * 4 * 3 + 1) * (rows + 20) * 4 <= 2**28
    assert max_rows(100_000_000, 4) == 0


async def test_the_cpu_is_no_device_for_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CPU mode"):
        BinaryEngine(tmp_path, CPU)


# --- finding and probing ------------------------------------------------------------------------


async def test_probe_says_what_is_wrong_with_a_program(
    program: Callable[..., Path], tmp_path: Path
) -> None:
    missing = "echo 'x: error while loading shared libraries: libvulkan.so.1: no' >&2; exit 127"
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\x08\x00")
    foreign.chmod(0o755)
    plain = tmp_path / "plain"
    plain.touch()
    cases = {
        tmp_path / "nothing": "There is no program at",
        tmp_path: "There is no program at",
        plain: "chmod [+]x",
        foreign: "is made for processor type 8, and this machine is",
        program(missing, "a"): "needs libvulkan.so.1.*apt-get install libvulkan1 libgomp1",
        program("echo 'usage: cat' >&2; exit 1", "b"): "is neither .*usage: cat",
        program("exit 3", "c"): "is neither .*exit status 3",
    }
    for path, sentence in cases.items():
        with pytest.raises(EngineError, match=sentence) as caught:
            await probe(path)
        assert not caught.value.retryable


def test_a_program_is_looked_for_in_bin_then_in_path(
    program: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = program(name="upscayl-bin")
    monkeypatch.setenv("PATH", "")
    empty = tmp_path / "empty"
    assert find_program("", empty) is None
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_program("", empty) == on_path
    assert find_program("upscayl-bin", empty) == on_path
    assert find_program("/opt/none", empty) == Path("/opt/none")
    own = tmp_path / "own"
    own.mkdir()
    (own / "realesrgan-ncnn-vulkan").touch()
    assert find_program("", own) == own / "realesrgan-ncnn-vulkan"
