"""Bands: finished while the engine continues, retried alone, and resumed after a restart."""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.waiting import until
from upscaled.errors import EngineError
from upscaled.imaging import Band, Piece, ResultProgress
from upscaled.pictures import RawImage, Size
from upscaled.pipeline import checkpoint
from upscaled.pipeline.bands import BandFinisher, band_end, task_rows
from upscaled.pipeline.checkpoint import Checkpoint

ROW = 1 << 20
"""Native bytes of a source row; so a band in these tests has 64 rows."""


def test_tasks_cover_every_row_once_and_none_is_too_high() -> None:
    for height in (1, 7, 100, 101):
        for most in (1, 3, 100, 1000):
            for multiple in (0, 1, 32):
                ranges = list(task_rows(5, 5 + height, most, multiple))
                rows = [row for top, bottom in ranges for row in range(top, bottom)]
                assert rows == list(range(5, 5 + height))
                assert max(bottom - top for top, bottom in ranges) <= most
                if multiple and most >= multiple:
                    assert all((bottom - top) % multiple == 0 for top, bottom in ranges[:-1])


def test_bands_end_at_rows_of_tiles_and_none_is_a_sliver() -> None:
    ends = [0]
    while ends[-1] < 1000:
        ends.append(band_end(ends[-1], 1000, 50, ROW))
    assert ends == [50 * number for number in range(20)] + [1000]
    assert band_end(0, 90, 60, ROW) == 90
    assert band_end(0, 5000, 32, 100) == 5000


class Record:
    """The finished bands, and the planned outcome of the next one."""

    def __init__(self) -> None:
        self.bands: list[tuple[int, int]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None

    def has(self, count: int) -> bool:
        return len(self.bands) >= count

    async def finish(self, band: Band) -> None:
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.bands.append((band.top, band.bottom))

    def finishing(self, *, top: int = 0, one_band: int | None = None) -> BandFinisher:
        native = RawImage(Path("native.rgb"), Size(ROW // 12, 800))  # of a source of 200 rows
        return BandFinisher(
            "finish-test", native, 200, top=top, one_band=one_band, finish=self.finish
        )


async def test_bands_are_finished_while_later_rows_are_still_made() -> None:
    record = Record()
    seen: list[list[tuple[int, int]]] = []

    async def inference() -> None:
        for row in (50, 100, 150, 200):
            finishing.reached(row, 50)
            await until(functools.partial(record.has, row // 50))
            seen.append(list(record.bands))

    async with record.finishing() as finishing:
        await finishing.during(inference())
        await finishing.done()
    assert seen[0] == [(0, 50)]
    assert record.bands == [(0, 50), (50, 100), (100, 150), (150, 200)]


async def test_what_an_engine_got_through_with_before_it_failed_is_finished() -> None:
    record = Record()

    async def inference() -> None:
        finishing.reached(120, 50)
        raise EngineError("out of memory")

    async with record.finishing() as finishing:
        with pytest.raises(EngineError, match="out of memory"):
            await finishing.during(inference())
        await finishing.done()
    assert record.bands == [(0, 50), (50, 100)]
    assert finishing.top == 100


async def test_a_band_that_fails_ends_the_inference_of_later_ones() -> None:
    record = Record()
    record.error = EngineError("unlike")
    ended = asyncio.Event()

    async def inference() -> None:
        finishing.reached(50, 50)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with record.finishing() as finishing:
        await finishing.during(inference())
        assert ended.is_set()
        with pytest.raises(EngineError, match="unlike"):
            await finishing.done()
    assert finishing.band == Band(0, 50)


async def test_one_band_alone_ends_where_it_would_among_others() -> None:
    record = Record()

    async def inference() -> None:
        finishing.reached(finishing.end, 50)

    async with record.finishing(top=50, one_band=50) as finishing:
        assert finishing.end == 100
        await finishing.during(inference())
        await finishing.done()
    assert record.bands == [(50, 100)]


async def test_leaving_early_ends_the_finishing() -> None:
    record = Record()
    record.hold.clear()
    async with record.finishing() as finishing:
        finishing.reached(200, 50)
        await asyncio.sleep(0)
    assert record.bands == []
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("finish-test")]


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    (tmp_path / "result.part").write_bytes(b"first" + b"second")
    pieces = tuple(
        Piece("result.part", at, len(text), zlib.crc32(text))
        for at, text in ((0, b"first"), (5, b"second"))
    )
    return Checkpoint("work", 64, ResultProgress(100, 200, 11, 7, 0.9, pieces), began=50)


async def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, saved: Checkpoint) -> None:
    await checkpoint.save(tmp_path, saved)
    assert await checkpoint.load(tmp_path, "work", "result.png") == saved
    assert await checkpoint.load(tmp_path, "other work", "result.png") is None
    assert await checkpoint.has_advanced(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "result.part").write_bytes(b"firstsecomd"),
        lambda folder: (folder / "result.part").write_bytes(b"firstsec"),
        lambda folder: (folder / "result.part").unlink(),
        lambda folder: (folder / "checkpoint").write_text("{", "utf-8"),
        lambda folder: (folder / "checkpoint").write_text("[]", "utf-8"),
        lambda folder: (folder / "checkpoint").write_bytes(bytes(100)),
    ],
)
async def test_what_a_power_cut_left_half_done_is_not_built_on(
    damage: Callable[[Path], object], tmp_path: Path, saved: Checkpoint
) -> None:
    await checkpoint.save(tmp_path, saved)
    await asyncio.to_thread(damage, tmp_path)
    assert await checkpoint.load(tmp_path, "work", "result.png") is None


async def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert await checkpoint.load(tmp_path, "work", "result.png") is None
    assert not await checkpoint.has_advanced(tmp_path)


async def test_a_checkpoint_of_the_first_release_still_loads(tmp_path: Path) -> None:
    (tmp_path / "result.part").write_bytes(b"12345678901")
    (tmp_path / "checkpoint").write_text(
        '{"work": "work", "tile_size": 64, "written": {"source_rows": 100, "rows": 200, '
        '"length": 11, "state": 7, "score": 0.9, "pieces": [["result.part", 0, 11, 2596996162]]}, '
        '"began": 50, "libraries": ["ncnn 1.0"]}'
    )
    pieces = (Piece("result.part", 0, 11, zlib.crc32(b"12345678901")),)
    (tmp_path / "checkpoint").write_text(
        (tmp_path / "checkpoint").read_text().replace("2596996162", str(pieces[0].crc32))
    )
    loaded = await checkpoint.load(tmp_path, "work", "result.png")
    written = ResultProgress(100, 200, 11, 7, 0.9, pieces)
    assert loaded == Checkpoint("work", 64, written, 50, ("ncnn 1.0",))
