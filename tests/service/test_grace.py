"""Results that a proxy has received stay for a while, and then they go."""

from __future__ import annotations

from pathlib import Path

from upscaled.jobs.workspace import Workspace
from upscaled.service.grace import GracePeriods


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_grace_period_ends_after_its_time_and_not_before() -> None:
    clock = Clock()
    grace = GracePeriods(60, clock)
    grace.begin("1")
    clock.now += 59
    assert grace.over() == []
    clock.now += 1
    assert grace.over() == ["1"]
    grace.forget("1")
    assert grace.over() == [] and len(grace) == 0


def test_a_download_holds_the_result_and_starts_the_period_anew() -> None:
    clock = Clock()
    grace = GracePeriods(60, clock)
    grace.begin("1")
    with grace.downloading("1"), grace.downloading("1"):
        clock.now += 600
        assert grace.over() == [] and grace.running() == []
    clock.now += 59
    assert grace.over() == []
    clock.now += 1
    assert grace.over() == ["1"]


def test_a_download_that_is_not_in_a_grace_period_begins_none() -> None:
    grace = GracePeriods(60, Clock())
    with grace.downloading("1"):
        pass
    assert len(grace) == 0


def test_after_a_restart_only_the_rest_of_the_period_counts() -> None:
    clock = Clock()
    grace = GracePeriods(60, clock)
    grace.begin("old", passed=50)
    grace.begin("clock was set back", passed=-1e6)
    clock.now += 10
    assert grace.over() == ["old"]
    clock.now += 50
    assert grace.over() == ["old", "clock was set back"]


async def test_a_shortage_of_disk_asks_for_room_once_and_only_then(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    asked: list[int] = []

    async def make_room(count: int) -> None:
        asked.append(count)

    workspace.make_room = make_room
    free = await workspace.free_bytes(1)
    assert asked == []
    await workspace.free_bytes(2 * free)
    assert len(asked) == 1 and asked[0] > free // 2
