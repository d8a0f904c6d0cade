"""Bands among the blobs: what another worker goes on with, and what it does not believe."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from testkit.jobs import make_job
from testkit.waiting import until
from upscaled import serial
from upscaled.blobs.blobs import BlobInfo
from upscaled.blobs.folder import FolderBlobs
from upscaled.cluster import keys
from upscaled.cluster.kept_bands import KeptBands
from upscaled.cluster.work_queue import Lease
from upscaled.engines.engine import CPU, ModelFiles
from upscaled.engines.pool import Place
from upscaled.errors import NoSpaceError, StoreUnavailableError
from upscaled.imaging import PART, Finished, Piece, ResultProgress
from upscaled.jobs.job import Job, JobRequest
from upscaled.jobs.workspace import Workspace
from upscaled.pictures import Size
from upscaled.pipeline import checkpoint
from upscaled.pipeline.checkpoint import NATIVE, Checkpoint
from upscaled.pipeline.result import IdentifiedModel

SIZE = Size(10, 400)
PLACE = Place("builtin", CPU)
FILES = ModelFiles(Path("net.param"), Path("net.bin"), 2, "in", "out", 1)
MODEL = IdentifiedModel(FILES, "1" * 64, "2" * 64)
WORK = checkpoint.work_key(MODEL.param_sha256, MODEL.bin_sha256, 2)
ROWS = 100
"""Source rows of a band."""


class FaultyBlobs(FolderBlobs):
    """Blobs in a folder, which refuse what a test says; stands for a store that is full or gone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refusal: Exception | None = None
        self.puts: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def put(self, key: str, file: Path) -> None:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.puts.append(key)
        await super().put(key, file)


class Desk:
    """A worker's folder with a job in it, whose bands a test makes."""

    def __init__(self, folder: Path, blobs: FolderBlobs, job: Job, number: int) -> None:
        self.workspace = Workspace(folder)
        self.lease = Lease(job, number, 1)
        self.kept = KeptBands(blobs, self.workspace, self._identify)
        self.kept.pixel_keys = {PLACE: "this CPU"}
        self.folder = self.workspace.folder(job.id)
        self.done = Checkpoint(WORK, 50, ResultProgress(), place=PLACE)

    async def open(self) -> None:
        await self.workspace.open()
        await asyncio.to_thread(self.folder.mkdir)

    async def _identify(self, _: Job) -> IdentifiedModel:
        return MODEL

    def make_band(self) -> None:
        """Write the next band into the job's files, as an imaging process does."""
        written = self.done.written
        part = self._added(PART, written.length, os.urandom(1000))
        rows = os.urandom(ROWS * 2 * SIZE.width * 2 * 3)
        native = self._added(NATIVE, written.source_rows * 2 * SIZE.width * 2 * 3, rows)
        written = ResultProgress(
            written.source_rows + ROWS, written.rows + ROWS, written.length + 1000,
            pieces=(*written.pieces, part, native),
        )  # fmt: skip
        self.done = replace(self.done, written=written)

    def _added(self, name: str, offset: int, content: bytes) -> Piece:
        path = self.folder / name
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(offset)
            file.write(content)
        return Piece(name, offset, len(content), zlib.crc32(content))

    def note(self) -> None:
        self.kept.note(self.lease.job.id, self.done)

    async def band(self) -> None:
        """Make a band and wait until it is kept, or refused."""
        self.make_band()
        self.note()
        await self.settle()

    async def settle(self) -> None:
        keeping = self.kept._keeping[self.lease.job.id]
        await until(lambda: keeping.task is None)

    def content(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in (PART, NATIVE)}


@pytest.fixture
def job() -> Job:
    request = JobRequest(FILES.stem, 2, SIZE.times(2), "png")
    return make_job(input_size=SIZE, request=request)


@pytest.fixture
async def blobs(tmp_path: Path) -> FaultyBlobs:
    made = FaultyBlobs(tmp_path / "blobs")
    await made.open()
    return made


@pytest.fixture
async def first(tmp_path: Path, blobs: FaultyBlobs, job: Job) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "first", blobs, job, 1)
    await desk.open()
    assert await desk.kept.begin(desk.lease) is None
    yield desk
    await desk.kept.end(desk.lease, delete=False)
    desk.workspace.close()


@pytest.fixture
async def second(tmp_path: Path, blobs: FaultyBlobs, job: Job) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "second", blobs, job, 3)
    await desk.open()
    yield desk
    await desk.kept.end(desk.lease, delete=False)
    desk.workspace.close()


async def there(blobs: FolderBlobs, job: Job) -> list[BlobInfo]:
    return [blob async for blob in blobs.list(keys.bands(job.id))]


async def test_another_worker_gets_the_bands_with_the_same_bytes_and_adds_only_new_ones(
    first: Desk, second: Desk, blobs: FaultyBlobs, job: Job, tmp_path: Path
) -> None:
    await first.band()
    await first.band()
    assert await second.kept.begin(second.lease) == 1
    assert second.content() == first.content()
    found = await checkpoint.load(second.folder, WORK, "result.png")
    assert found == first.done
    second.done = replace(found, began=2 * ROWS)
    blobs.puts.clear()
    await second.band()
    assert len(blobs.puts) == 3  # two pieces and the record
    third = Desk(tmp_path / "third", blobs, job, 5)
    await third.open()
    assert await third.kept.begin(third.lease) == 3
    assert third.content() == second.content()
    await third.kept.end(third.lease, delete=True)
    assert await there(blobs, job) == []
    third.workspace.close()


async def test_the_first_lease_looks_for_nothing_and_one_without_bands_leaves_nothing(
    first: Desk, blobs: FaultyBlobs, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the blobs were asked")

    monkeypatch.setattr(blobs, "list", asked)
    monkeypatch.setattr(blobs, "stream", asked)
    monkeypatch.setattr(blobs, "delete", asked)
    assert await first.kept.begin(first.lease) is None
    await first.kept.end(first.lease, delete=True)
    assert blobs.puts == []


async def test_a_lease_that_finished_no_band_is_no_progress(
    first: Desk, second: Desk, job: Job, blobs: FaultyBlobs, tmp_path: Path
) -> None:
    await first.band()
    assert await second.kept.begin(second.lease) == 1
    second.done = replace(first.done, began=first.done.written.source_rows)
    second.note()
    await second.settle()
    third = Desk(tmp_path / "third", blobs, job, 5)
    await third.open()
    assert await third.kept.begin(third.lease) is None
    assert third.content() == first.content()
    await third.kept.end(third.lease, delete=False)
    third.workspace.close()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("harm", [damage, cut, lengthen, Path.unlink])
@pytest.mark.parametrize("of_record", [True, False])
async def test_what_is_damaged_or_missing_is_not_used(
    first: Desk, second: Desk, blobs: FaultyBlobs, job: Job, harm: object, of_record: bool
) -> None:
    await first.band()
    for blob in await there(blobs, job):
        if (keys.lease_of(blob.key) is not None) is of_record:
            harm(blobs.path(blob.key))  # type: ignore[operator]
            break
    assert await second.kept.begin(second.lease) is None
    assert list(second.folder.iterdir()) == []


async def test_an_earlier_leases_bands_are_used_if_the_last_ones_are_damaged(
    first: Desk, second: Desk, blobs: FaultyBlobs, job: Job, tmp_path: Path
) -> None:
    await first.band()
    before = first.content()
    await second.kept.begin(second.lease)
    second.done = replace(first.done, began=ROWS)
    await second.band()
    damage(blobs.path(keys.checkpoint(job.id, 3)))
    third = Desk(tmp_path / "third", blobs, job, 5)
    await third.open()
    assert await third.kept.begin(third.lease) == 1
    assert third.content() == before
    await third.kept.end(third.lease, delete=False)
    third.workspace.close()


WHOLE = Finished(Path("x"), SIZE, 1, "0" * 64, 1.0)


@pytest.mark.parametrize(
    "forge",
    [
        lambda d, w: replace(d, work="another network"),
        lambda d, w: replace(d, written=replace(w, finished=WHOLE)),
        lambda d, w: replace(d, written=replace(w, source_rows=SIZE.height)),
        lambda d, w: replace(d, written=replace(w, source_rows=0)),
        lambda d, w: replace(d, written=replace(w, rows=2 * SIZE.height + 1)),
        lambda d, w: replace(d, written=replace(w, length=w.length + 1)),
        lambda d, w: replace(d, began=SIZE.height),
        lambda d, w: replace(d, written=_with(w, 0, name="upload")),
        lambda d, w: replace(d, written=_with(w, 0, name="../../escaped")),
        lambda d, w: replace(d, written=_with(w, 0, offset=1)),
        lambda d, w: replace(d, written=_with(w, 0, offset=-1)),
        lambda d, w: replace(d, written=_with(w, 1, offset=1 << 40)),
        lambda d, w: replace(d, written=_with(w, 1, offset=-1)),
        lambda d, w: replace(d, written=_with(w, 1, length=-1)),
    ],
)
async def test_a_record_of_other_work_or_with_impossible_places_is_not_used(
    first: Desk, second: Desk, blobs: FaultyBlobs, job: Job, forge: object, tmp_path: Path
) -> None:
    await first.band()
    path = blobs.path(keys.checkpoint(job.id, 1))
    record = serial.decode(path.read_bytes().split(b"\n", 1)[1], dict)
    forged = forge(first.done, first.done.written)  # type: ignore[operator]
    document = serial.encode({**record, "checkpoint": forged})
    path.write_bytes(hashlib.sha256(document).hexdigest().encode() + b"\n" + document)
    assert await second.kept.begin(second.lease) is None
    assert list(second.folder.iterdir()) == []
    assert not list(tmp_path.rglob("escaped"))


def _with(written: ResultProgress, number: int, **changes: object) -> ResultProgress:
    pieces = list(written.pieces)
    pieces[number] = pieces[number]._replace(**changes)  # type: ignore[arg-type]
    return replace(written, pieces=tuple(pieces))


async def test_bands_of_another_kind_of_device_are_not_used(
    first: Desk, second: Desk, blobs: FaultyBlobs, job: Job
) -> None:
    await first.band()
    second.kept.pixel_keys = {PLACE: "another CPU"}
    assert await second.kept.begin(second.lease) is None
    assert list(second.folder.iterdir()) == []
    assert len(await there(blobs, job)) == 3  # a third worker may be of that kind


async def test_bands_that_come_faster_than_they_are_stored_are_stored_together(
    first: Desk, second: Desk, blobs: FaultyBlobs
) -> None:
    blobs.gate.clear()
    for _ in range(3):
        first.make_band()
        first.note()
        await asyncio.sleep(0)
    blobs.gate.set()
    await first.settle()
    assert len([key for key in blobs.puts if keys.lease_of(key) is not None]) <= 2
    assert await second.kept.begin(second.lease) == 1
    assert second.content() == first.content()


async def test_a_band_that_the_blobs_refuse_is_stored_with_the_next_one(
    first: Desk, second: Desk, blobs: FaultyBlobs
) -> None:
    blobs.refusal = StoreUnavailableError("The store does not answer.")
    await first.band()
    blobs.refusal = None
    await first.band()
    assert await second.kept.begin(second.lease) == 1
    assert second.content() == first.content()


async def test_full_blobs_get_the_room_of_the_bands_and_no_more_of_them(
    first: Desk, blobs: FaultyBlobs, job: Job
) -> None:
    await first.band()
    blobs.refusal = NoSpaceError("The store is full.")
    await first.band()
    assert await there(blobs, job) == []
    blobs.refusal = None
    await first.band()
    assert await there(blobs, job) == []


@pytest.mark.parametrize("name", [NATIVE, PART])
async def test_a_band_that_is_damaged_on_the_disk_is_not_stored(
    name: str, first: Desk, blobs: FaultyBlobs, job: Job
) -> None:
    first.make_band()
    rows = await asyncio.to_thread((first.folder / NATIVE).read_bytes)
    damage(first.folder / name)
    first.note()
    await first.settle()
    # The enlarged rows are stored first. Without a record nobody uses them.
    stored = [keys.band(job.id, hashlib.sha256(rows).hexdigest())] if name == PART else []
    assert [blob.key for blob in await there(blobs, job)] == stored


async def test_the_end_waits_for_what_is_being_stored_so_that_nothing_is_left(
    first: Desk, blobs: FaultyBlobs, job: Job
) -> None:
    blobs.gate.clear()
    first.make_band()
    first.note()
    await asyncio.sleep(0)
    ending = asyncio.create_task(first.kept.end(first.lease, delete=True))
    await asyncio.sleep(0)
    shutil.rmtree(first.folder)
    blobs.gate.set()
    await ending
    assert await there(blobs, job) == []
    assert list(first.workspace.incoming_dir.iterdir()) == []
