"""Background work: its failures are told, and its end can be awaited."""

from __future__ import annotations

import asyncio

import pytest

from upscaled.errors import StoreUnavailableError
from upscaled.service.background import Tasks


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
