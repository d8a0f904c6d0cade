"""A member of a cluster that starts while its stores do not answer: it waits, but not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from upscaled.errors import ConfigError, StoreUnavailableError, UpscaledError
from upscaled.server import starting
from upscaled.server.starting import started
from upscaled.server.stop import Stop


class Member:
    """Fails to start as long as it is told to."""

    def __init__(self, failure: UpscaledError | None) -> None:
        self._failure = failure

    async def start(self) -> None:
        if self._failure is not None:
            raise self._failure


def failing(times: int, failure: UpscaledError) -> tuple[list[Member], Callable[[], Member]]:
    made: list[Member] = []

    def make() -> Member:
        made.append(Member(failure if len(made) < times else None))
        return made[-1]

    return made, make


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_AGAIN_SECONDS", 0)


async def test_a_start_is_repeated_with_a_new_member_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, make = failing(2, StoreUnavailableError("The object store does not answer now."))
    with caplog.at_level(logging.WARNING):
        member = await started(make, Stop())
    assert member is made[2]
    assert [record.getMessage() for record in caplog.records] == [
        "The start waits for database and blobs, for up to 240 s more: The object store does not "
        "answer now."
    ] * 2


async def test_a_start_that_waited_long_enough_fails_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting, "_PATIENCE_SECONDS", 0.05)
    made, make = failing(10**9, StoreUnavailableError("The database does not answer now."))
    with pytest.raises(StoreUnavailableError, match="does not answer now"):
        await started(make, Stop())
    assert len(made) > 1


async def test_a_wrong_setting_ends_a_start_at_once() -> None:
    made, make = failing(1, ConfigError("cluster.blobs is another cluster's."))
    with pytest.raises(ConfigError):
        await started(make, Stop())
    assert len(made) == 1


async def test_a_stop_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_AGAIN_SECONDS", 3600)
    stop = Stop()
    made, make = failing(1, StoreUnavailableError("The database does not answer now."))
    waiting = asyncio.create_task(started(make, stop), name="start")
    while not made:  # noqa: ASYNC110 - until it has failed
        await asyncio.sleep(0)
    stop.signal()
    assert await waiting is None
