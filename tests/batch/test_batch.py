"""The loop: side by side, past bad pictures, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self

import pytest

from upscaled.batch.batch import Batch, Options, RunEndedError
from upscaled.batch.events import Done, Event, Failed, Skipped
from upscaled.batch.items import Item
from upscaled.batch.ledger import Ledger
from upscaled.batch.naming import Naming
from upscaled.batch.outputs import place
from upscaled.batch.upscaler import Made, OnPercent, Task
from upscaled.errors import EngineError, NoMemoryError, NoSpaceError, UpscaledError
from upscaled.pictures import Size, SizeLimit


class Pretender:
    """An upscaler that copies, and ends with the error that a picture's content names."""

    parallel = 3

    def __init__(self) -> None:
        self.busy = self.most = self.tries = self.estimates = 0
        self.made: list[str] = []
        self.hold: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def completed(self, fields: Mapping[str, str]) -> dict[str, str]:
        return {"model_name": "default", **fields}

    async def upscale(self, task: Task, on_percent: OnPercent) -> Made:
        self.busy += 1
        self.tries += 1
        self.most = max(self.most, self.busy)
        if self.hold is not None and self.busy == self.parallel:
            self.hold.set()
        try:
            on_percent(50)
            content = await asyncio.to_thread(task.source.read_text)
            if content == "no room" or (content == "needs all" and self.busy > 1):
                raise NoSpaceError("There is no room.")
            if content == "too much":
                raise NoMemoryError("It needs more memory than there is.")
            if content == "bad":
                raise EngineError("The picture is bad.")
            if content == "bug":
                raise ValueError("a bug")
            if content == "gone":
                error = UpscaledError("The server is gone.")
                error.code = "unreachable"
                raise error
            if self.hold is not None:
                await self.hold.wait()
            await asyncio.to_thread(task.target.write_text, f"{content} upscaled")
        finally:
            self.busy -= 1
        self.made.append(task.source.name)
        return Made(Size(1, 1), Size(2, 2), "cpu")

    async def recorded(self, task: Task) -> None:
        assert await asyncio.to_thread(task.target.exists)

    async def estimate(self, size: Size, fields: Mapping[str, str]) -> tuple[Size, float]:
        self.estimates += 1
        await asyncio.sleep(0)
        return size.times(2), 1.5


class Run:
    """A batch over files of these contents."""

    def __init__(self, folder: Path, options: Options, **contents: str) -> None:
        self.upscaler = Pretender()
        self.events: list[Event] = []
        self.items = []
        for name, content in contents.items():
            source = folder / f"{name}.png"
            if not source.exists():
                source.write_text(content)
            self.items.append(Item(source, PurePath(source.name)))
        self._folder, self._options = folder / "out", options

    async def size_of(self, path: Path) -> Size:
        return Size(int(path.stem.removeprefix("w")), 10)

    async def __aenter__(self) -> Self:
        self.ledger = await asyncio.to_thread(Ledger, self._folder)
        self.batch = Batch(
            self.upscaler, self.size_of, self.ledger, Naming(self._folder), self._options,
            self.events.append,
        )  # fmt: skip
        await self.batch.prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.ledger.close)


async def test_pictures_go_side_by_side_and_a_bad_one_stops_nothing(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}), a="1", b="bad", c="3", d="bug", e="5", f="6") as run:
        run.upscaler.hold = asyncio.Event()  # until three are under way
        async with asyncio.timeout(20):
            summary = await run.batch.run(run.items)
    assert run.upscaler.most == 3
    assert (summary.total, summary.done) == (6, 4)
    failed = {event.source.name: event for event in summary.failed}
    assert failed["b.png"].error == "The picture is bad."
    assert failed["d.png"].code == "internal_error"
    assert (tmp_path / "out/e.png").read_text() == "5 upscaled"


async def test_a_second_run_makes_only_what_failed_or_changed(tmp_path: Path) -> None:
    contents = {"a": "1", "b": "bad", "c": "3"}
    async with Run(tmp_path, Options({}), **contents) as run:
        await run.batch.run(run.items)
    (tmp_path / "b.png").write_text("good now")
    (tmp_path / "c.png").write_text("3, changed")
    async with Run(tmp_path, Options({"client_ref": "mine"}), **contents) as run:
        summary = await run.batch.run(run.items)
    assert sorted(run.upscaler.made) == ["b.png", "c.png"]
    assert summary.skipped == {"unchanged": 1}
    async with Run(tmp_path, Options({"scale": "2"}), **contents) as run:
        await run.batch.run(run.items)
    assert len(run.upscaler.made) == 3


async def test_what_there_is_no_room_for_waits_for_the_others(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}), a="needs all", b="needs all", c="3", d="4") as run:
        async with asyncio.timeout(20):
            summary = await run.batch.run(run.items)
    assert summary.failed == []
    assert summary.done == 4


async def test_pictures_that_fit_alone_only_are_made_one_by_one(tmp_path: Path) -> None:
    pictures = {f"p{number}": "needs all" for number in range(7)}
    async with Run(tmp_path, Options({}), **pictures) as run:
        async with asyncio.timeout(20):
            summary = await run.batch.run(run.items)
    assert (summary.done, summary.failed) == (7, [])


async def test_where_nothing_has_room_each_picture_is_refused_after_a_few_tries(
    tmp_path: Path,
) -> None:
    pictures = {f"p{number}": "no room" for number in range(7)}
    async with Run(tmp_path, Options({}), **pictures) as run:
        async with asyncio.timeout(20):
            summary = await run.batch.run(run.items)
    assert [event.code for event in summary.failed] == ["insufficient_storage"] * 7
    assert run.upscaler.tries <= 21


async def test_what_never_has_room_fails_alone(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}), a="too much", b="2") as run:
        async with asyncio.timeout(20):
            summary = await run.batch.run(run.items)
    assert [event.code for event in summary.failed] == ["insufficient_storage"]


async def test_a_server_that_is_gone_ends_the_run_and_is_no_fault_of_a_picture(
    tmp_path: Path,
) -> None:
    names = {f"p{number}": "fine" for number in range(20)}
    async with Run(tmp_path, Options({}), a="gone", **names) as run:
        run.upscaler.hold, run.upscaler.parallel = asyncio.Event(), 2
        with pytest.raises(RunEndedError, match="The server is gone"):
            await run.batch.run(run.items)
    assert run.batch.summary.stopped
    assert run.batch.summary.failed == []
    assert run.ledger.get(tmp_path / "out/a.png") is None


async def test_a_picture_that_is_no_longer_there_is_one_failure(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}), a="1", b="2") as run:
        (tmp_path / "a.png").unlink()
        summary = await run.batch.run(run.items)
    (failed,) = summary.failed
    assert failed.error == f"{tmp_path / 'a.png'}: No such file or directory."
    assert summary.done == 1


async def test_existing_and_large_pictures_are_left_alone(tmp_path: Path) -> None:
    options = Options({}, only_below=SizeLimit.parse("100x100"), skip_existing=True)
    async with Run(tmp_path, options, w50="a", w150="b", w60="c") as run:
        (tmp_path / "out/w60.png").write_text("whatever")
        await run.batch.run(run.items)
    told = {event.source.stem: event for event in run.events if isinstance(event, Skipped | Done)}
    assert isinstance(told["w50"], Done)
    assert told["w150"] == Skipped(tmp_path / "w150.png", "large")
    assert told["w60"] == Skipped(tmp_path / "w60.png", "exists")
    assert (tmp_path / "out/w60.png").read_text() == "whatever"


async def test_a_dry_run_makes_nothing_and_tells_the_time(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}, dry_run=True), w50="a", w60="bad") as run:
        summary = await run.batch.run(run.items)
    assert (summary.planned, summary.planned_seconds) == (2, 3.0)
    assert run.upscaler.made == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".upscaled"]


async def test_a_dry_run_looks_at_many_pictures_at_a_time_and_estimates_alike_ones_together(
    tmp_path: Path,
) -> None:
    names = {f"w{number}": "a" for number in range(100, 200)}

    class Sized(Run):
        looking, all_look = 0, asyncio.Event()

        async def size_of(self, path: Path) -> Size:
            self.looking += 1
            if self.looking == len(names):
                self.all_look.set()
            await self.all_look.wait()
            return Size(10, int(path.stem[1:]) % 3 + 1)

    async with Sized(tmp_path, Options({}, dry_run=True), **names) as run:
        async with asyncio.timeout(20):
            summary = await run.batch.run(run.items)
    assert (summary.planned, summary.planned_seconds) == (100, 150.0)
    assert run.upscaler.estimates <= 3 * run.upscaler.parallel


async def test_of_two_pictures_for_one_result_the_first_one_has_it_in_every_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "other").mkdir()
    for _ in range(3):
        async with Run(tmp_path, Options({}), a="1", b="2", c="3", d="4") as run:
            twins = [Item(tmp_path / "other" / item.source.name, item.name) for item in run.items]
            for twin in twins:
                twin.source.write_text("twin")
            summary = await run.batch.run(
                [one for pair in zip(run.items, twins, strict=True) for one in pair]
            )
        assert [failed.source for failed in summary.failed] == [twin.source for twin in twins]
    assert summary.skipped == {"unchanged": 4}


async def test_a_result_never_replaces_its_picture(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}), a="1") as run:
        (tmp_path / "out/a.png").hardlink_to(tmp_path / "a.png")
        summary = await run.batch.run(run.items)
    assert isinstance(summary.failed[0], Failed)
    assert "is the picture itself" in summary.failed[0].error
    assert (tmp_path / "a.png").read_text() == "1"


async def test_what_a_killed_run_left_beside_a_result_is_removed(tmp_path: Path) -> None:
    async with Run(tmp_path, Options({}), a="1") as run:
        item = Item(run.items[0].source, PurePath("deep/a.png"))
        left = tmp_path / "out/deep/.00112233445566ff.upscaled-part"
        left.parent.mkdir()
        left.write_text("half")
        await run.batch.run([item])
    assert [path.name for path in left.parent.iterdir()] == ["a.png"]


def test_a_result_takes_its_place_on_every_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").write_bytes(b"new")
    (tmp_path / "out").mkdir()
    target = tmp_path / "out/a.png"
    for _ in range(2):  # the second time it is that file already
        place(tmp_path / "made", target)
        assert target.samefile(tmp_path / "made")
    target.unlink()
    target.write_bytes(b"old")

    def none(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", none)
    place(tmp_path / "made", target)
    assert target.read_bytes() == b"new"
    assert not target.samefile(tmp_path / "made")
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]
