"""An engine that reports nothing is killed, and the next task gets a fresh process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from testkit.networks import make_task, photo, shipped, write_repeater
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Progress
from upscaled.errors import EngineError
from upscaled.workers.server import Message


async def test_an_engine_that_falls_silent_is_ended_and_the_attempt_can_be_repeated(
    tmp_path: Path, models_dir: Path
) -> None:
    engine = BuiltinEngine(CPU, threads=1, stall_seconds=1.5)
    try:
        quick = make_task(tmp_path, photo(40, 40), write_repeater(tmp_path, "n", 2), tile_size=32)
        await engine.upscale(quick, lambda _: None)
        first = engine.pid
        assert first is not None
        slow = make_task(
            tmp_path, photo(200, 160), shipped(models_dir, "realesr-animevideov3-x2"), tile_size=32
        )
        with pytest.raises(EngineError, match=r"finished no tile for 1\.5 seconds") as stalled:
            await engine.upscale(slow, lambda _: os.kill(first, signal.SIGSTOP))
        assert stalled.value.retryable
        assert not psutil.pid_exists(first)
        await engine.upscale(quick, lambda _: None)
        assert engine.pid not in {None, first}
    finally:
        await engine.close()


async def test_an_engine_that_goes_on_talking_may_take_longer_than_that(tmp_path: Path) -> None:
    engine = BuiltinEngine(CPU, threads=1, stall_seconds=5)
    seen: list[Progress] = []
    try:
        task = make_task(tmp_path, photo(200, 160), write_repeater(tmp_path, "n", 2), tile_size=32)
        await engine.upscale(task, seen.append)
    finally:
        await engine.close()
    assert {round(35 * progress.share, 6) for progress in seen} >= set(range(36))


class _OneAtATime:
    """Stands for a worker that has room for one task: a tile every tenth of a second."""

    def __init__(self) -> None:
        self._room = asyncio.Lock()

    async def request(
        self, message: Message, *, on_event: Callable[[Message], None], on_retry: object
    ) -> Message:
        async with self._room:
            on_event({"begun": True})
            tile = {"of": 15, "rows": 0, "tile": 32, "library": "none", "running": 1, "seconds": 1,
                    "at_once": 1, "threads": 2}  # fmt: skip
            for done in range(1, 16):
                await asyncio.sleep(0.1)  # all tiles take longer than a stall may
                on_event({**tile, "done": done})
        return {"tile_size": 32}

    async def close(self) -> None:
        """There is nothing to end."""


async def test_waiting_for_room_is_no_stall_and_takes_none_of_the_time(tmp_path: Path) -> None:
    engine = BuiltinEngine(CPU, threads=1, stall_seconds=1, at_once=2)
    engine._worker = _OneAtATime()  # type: ignore[assignment]
    task = make_task(tmp_path, photo(40, 40), write_repeater(tmp_path, "n", 2))
    outcomes = await asyncio.gather(*(engine.upscale(task, lambda _: None) for _ in range(3)))
    # The last one waited for three seconds.
    assert max(outcome.seconds for outcome in outcomes) < 1.4 * min(
        outcome.seconds for outcome in outcomes
    )
