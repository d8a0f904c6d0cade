"""Background work: its failures are told, and its end can be awaited."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from upscaled.errors import StoreUnavailableError
from upscaled.service import background
from upscaled.service.background import Tasks, run_in_background


async def test_tasks_that_fail_are_told_and_awaited(caplog: pytest.LogCaptureFixture) -> None:
    tasks, go_on, done = Tasks(), asyncio.Event(), []

    async def work(error: Exception | None) -> None:
        await go_on.wait()
        if error is not None:
            raise error
        done.append(True)

    for name, error in (
        ("a", None),
        ("b", StoreUnavailableError("It is away.")),
        ("c", KeyError()),
    ):
        tasks.start(work(error), name)
    go_on.set()
    await tasks.ended()
    assert done == [True]
    told = [(one.levelname, one.message, one.__dict__["task"]) for one in caplog.records]
    assert told == [("WARNING", "It is away.", "b"), ("ERROR", "a task broke", "c")]


async def test_what_runs_in_the_background_begins_again_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "_PAUSE_SECONDS", 0.001)
    begun, third = [], asyncio.Event()

    async def work() -> None:
        begun.append(True)
        if len(begun) < 3:
            raise KeyError(len(begun))
        third.set()
        await asyncio.Event().wait()

    async with contextlib.AsyncExitStack() as closing:
        task = run_in_background(closing, work, "feeding")
        async with asyncio.timeout(10):
            await third.wait()
        assert not task.done()
    assert task.cancelled()
    told = [(one.message, one.__dict__["task"], one.__dict__["in"]) for one in caplog.records]
    assert told == [
        ("a task broke; it starts again", "feeding", 0.001),
        ("a task broke; it starts again", "feeding", 0.002),
    ]


async def test_background_work_that_is_done_is_not_begun_again() -> None:
    begun = []

    async def work() -> None:
        begun.append(True)

    async with contextlib.AsyncExitStack() as closing:
        await run_in_background(closing, work, "once")
    assert begun == [True]
