"""A process that is killed while it works on a picture is replaced, in every stage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testkit.imaging import enlarged
from testkit.waiting import until
from upscaled.errors import EngineError, NoMemoryError, UnusablePictureError
from upscaled.imaging import Band, FinishOptions, Imaging, Prepared
from upscaled.pictures import Size

STAGES = ("prepare", "check", "finish")
SIZE = Size(1500, 1000)


@pytest.fixture
async def imaging() -> AsyncIterator[Imaging]:
    imaging = Imaging(max_pixels=10_000_000)
    await imaging.warm()
    yield imaging
    await imaging.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture whose decoding and encoding take long enough to be interrupted."""
    shades = np.random.default_rng(1).integers(0, 255, (10, 15, 3)).astype(np.uint8)
    path = tmp_path / "picture.png"
    size = (SIZE.width, SIZE.height)
    Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


async def test_a_process_that_is_killed_over_many_headers_costs_none_of_them(
    imaging: Imaging, picture: Path, tmp_path: Path
) -> None:
    last = tmp_path / "last.png"
    os.mkfifo(last)  # its reader waits
    reading = asyncio.create_task(imaging.probe_all([picture, tmp_path / "missing", last]))
    pids = await until(lambda: at_work(imaging))
    assert pids is not None
    last.unlink()
    last.hardlink_to(picture)
    os.kill(pids[1], signal.SIGKILL)
    first, missing, second = await reading
    assert first == second == await imaging.probe(picture)
    assert isinstance(missing, EngineError)


def children_of(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def at_work(imaging: Imaging) -> tuple[int, int] | None:
    """Return the ids of a process that works on a request, and of its child."""
    for worker in imaging._pool._workers:
        if worker.pid is not None and (children := children_of(worker.pid)):
            return worker.pid, children[0]
    return None


async def killed(
    imaging: Imaging,
    work: Coroutine[Any, Any, Any],
    times: int,
    number: int,
    *,
    child: bool,
    before_last: Callable[[], None] = lambda: None,
) -> Any:
    """Do ``work`` while the process that does it is killed ``times`` times."""
    task = asyncio.create_task(work)
    seen: set[int] = set()
    while len(seen) < times and not task.done():
        pids = await asyncio.to_thread(at_work, imaging)
        if pids is not None and pids[child] not in seen:
            seen.add(pids[child])
            if len(seen) == times:
                before_last()
            os.kill(pids[child], number)
    assert len(seen) == times, "it was over too soon"
    return await task


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A picture whose bytes never come."""
    path = tmp_path / "endless.png"
    os.mkfifo(path)
    return path


async def stage(
    imaging: Imaging, name: str, picture: Path, folder: Path
) -> Coroutine[Any, Any, Any]:
    """Return the work of a stage, all before it being done."""
    if name == "prepare":
        return imaging.prepare(picture, folder)
    prepared: Prepared = await imaging.prepare(picture, folder)
    native = await asyncio.to_thread(enlarged, prepared)
    if name == "check":
        return imaging.check(prepared.source, native, 0, SIZE.height)
    band = Band(0, SIZE.height)
    return imaging.finish(prepared, native, folder, FinishOptions("png", SIZE.times(2)), band)


@pytest.mark.parametrize("child", [False, True])
@pytest.mark.parametrize("name", STAGES)
async def test_a_process_that_is_killed_twice_is_replaced_twice(
    imaging: Imaging, picture: Path, endless: Path, tmp_path: Path, name: str, child: bool
) -> None:
    def end() -> None:
        endless.unlink()
        endless.hardlink_to(picture)

    source = endless if name == "prepare" else picture
    work = await stage(imaging, name, source, tmp_path)
    done = await killed(imaging, work, 2, signal.SIGKILL, child=child, before_last=end)
    assert done == await (await stage(imaging, name, source, tmp_path))


@pytest.mark.parametrize("name", STAGES)
async def test_the_bound_is_the_same_for_every_stage(
    imaging: Imaging, picture: Path, endless: Path, tmp_path: Path, name: str
) -> None:
    source = endless if name == "prepare" else picture
    work = await stage(imaging, name, source, tmp_path)
    with pytest.raises(EngineError, match="ended with signal 9") as failed:
        await killed(imaging, work, 3, signal.SIGKILL, child=False)
    assert not failed.value.retryable, "no other tile size would help"
    work = await stage(imaging, name, source, tmp_path)
    with pytest.raises(NoMemoryError, match="most likely because memory ran out"):
        await killed(imaging, work, 3, signal.SIGKILL, child=True)


async def test_a_picture_that_crashes_its_decoder_each_time_fails_with_its_sentence(
    imaging: Imaging, endless: Path, tmp_path: Path
) -> None:
    work = await stage(imaging, "prepare", endless, tmp_path)
    with pytest.raises(UnusablePictureError, match=r"the decoder crashed on it \(SIGSEGV\)"):
        await killed(imaging, work, 3, signal.SIGSEGV, child=True)
