"""Results of several bands: they are joined from the blobs, and the disk never has all of one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from testkit.jobs import make_job
from testkit.paths import DATA
from testkit.pipeline_bench import Bench, opened_bench
from testkit.postgres import PostgresServer
from testkit.waiting import until
from upscaled import files
from upscaled.blobs.blobs import BlobMissingError, digest
from upscaled.blobs.folder import FolderBlobs
from upscaled.cluster import keys, work_queue
from upscaled.cluster.kept_bands import KeptBands
from upscaled.cluster.pieces import LostPieceError
from upscaled.cluster.records import HeldJob, SharedJobStore, WorkerJobStore
from upscaled.cluster.work_queue import Lease
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU
from upscaled.errors import NoSpaceError
from upscaled.files import sha256_of
from upscaled.imaging import PART
from upscaled.jobs.job import ACTIVE, Job, JobState
from upscaled.jobs.workspace import UPLOAD
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.result import IdentifiedModel, RunResult

WIDTH, BANDS = 96, 10
BLOCK = 4096
MADE: dict[str, tuple[str, int]] = {}
"""Digests and lengths of results that one machine has made, by format."""
KEY = "results/1/1.png"
RECEIPT = {"output": {"sha256": "0" * 64}}


class StoppedError(Exception):
    """Ends a run as a kill does."""


class FullBlobs(FolderBlobs):
    """Blobs in a folder, which can be full; stands for a bucket with a quota."""

    full = False

    async def put(self, key: str, file: Path) -> None:
        if self.full:
            raise NoSpaceError("The store is full.")
        await super().put(key, file)

    async def put_pieces(self, key: str, pieces: object) -> None:
        if self.full:
            raise NoSpaceError("The store is full.")
        await super().put_pieces(key, pieces)  # type: ignore[arg-type]


class Watched(KeptBands):
    """Kept bands that a test watches. The last band waits until the others are kept."""

    def __init__(self, bench: Bench, blobs: FullBlobs) -> None:
        super().__init__(blobs, bench.workspace, self._identify_here)
        self._folder = bench.workspace.folder
        self.pipeline = bench.pipeline([BuiltinEngine(CPU)], keeper=self)
        (place,) = bench.pools[-1].all_places
        self.pixel_keys = {place: "this CPU"}
        self.noted = 0
        """Bands that were noted."""
        self.stop_after = 0
        """After so many the run is ended."""

    async def _identify_here(self, job: Job) -> IdentifiedModel:
        return await self.pipeline.identify(job)

    def note(self, job_id: str, done: Checkpoint) -> None:
        super().note(job_id, done)
        self.noted += 1
        if self.noted == self.stop_after:
            raise StoppedError

    async def hold(self, job_id: str) -> int:
        await self.settled(job_id)
        return await super().hold(job_id)

    async def settled(self, job_id: str) -> None:
        """Wait until what is noted is kept."""
        keeping = self._keeping[job_id]
        await until(lambda: keeping.task is None)

    def on_disk(self, job_id: str) -> int:
        """Return how many bytes of a job's result the disk has."""
        return (self._folder(job_id) / PART).stat().st_blocks * 512


class Worker:
    """What makes results and keeps bands, as a worker of a cluster has it."""

    def __init__(self, bench: Bench, blobs: FullBlobs) -> None:
        self.bench = bench
        self.blobs = blobs
        self.kept = Watched(bench, blobs)

    async def make(self, job: Job, number: int = 1) -> RunResult:
        """Do a job under a lease of this number."""
        await self.kept.begin(Lease(job, number, 1))
        return await self.go_on(job)

    async def go_on(self, job: Job) -> RunResult:
        return await self.bench.go_on(self.kept.pipeline, job)

    async def bands(self, job: Job) -> list[str]:
        return [blob.key async for blob in self.blobs.list(keys.bands(job.id))]

    async def part_of(self, job: Job, number: int) -> Path:
        """Return the blob of a piece of a job's result that is not on the disk."""
        digests = list(self.kept._keeping[job.id].result._away.values())
        return self.blobs.path(keys.band(job.id, digests[number]))


@pytest.fixture
async def bench(tmp_path: Path, models_dir: Path) -> AsyncIterator[Bench]:
    async with opened_bench(tmp_path / "data", models_dir) as bench:
        yield bench


@pytest.fixture
async def blobs(tmp_path: Path) -> FullBlobs:
    made = FullBlobs(tmp_path / "blobs")
    await made.open()
    return made


@pytest.fixture
def worker(bench: Bench, blobs: FullBlobs) -> Worker:
    return Worker(bench, blobs)


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of ten bands."""
    path = tmp_path_factory.mktemp("tall") / "tall.png"
    with Image.open(DATA / "coffee.jpg") as image:
        image.resize((WIDTH, 32 * BANDS)).save(path)
    return path


@pytest.fixture(autouse=True)
def low_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)


async def whole(bench: Bench, tall: Path, kind: str = "png") -> tuple[str, int]:
    """Return the digest and the length of the result that one machine makes."""
    if kind in MADE:
        return MADE[kind]
    pipeline = bench.pipeline([BuiltinEngine(CPU)])
    result = await bench.run(pipeline, tall, tile_size=32, result_format=kind)
    content = await asyncio.to_thread(result.path.read_bytes)
    assert result.path.name == f"result.{kind}"
    MADE[kind] = hashlib.sha256(content).hexdigest(), len(content)
    return MADE[kind]


async def job_of(worker: Worker, tall: Path, kind: str = "png") -> Job:
    return await worker.bench.job(tall, tile_size=32, result_format=kind)


@pytest.mark.parametrize("kind", ["png", "jpg"])
async def test_the_result_has_one_machines_bytes_and_the_disk_has_not_all_of_them(
    worker: Worker, bench: Bench, tall: Path, kind: str
) -> None:
    wanted, length = await whole(bench, tall, kind)
    job = await job_of(worker, tall, kind)
    result = await worker.make(job)
    assert result.finished.sha256 == wanted
    assert result.finished.file_size_bytes == length
    left = result.path.stat()
    assert (result.path.name, left.st_size) == (PART, length)
    # Of the last band, and what whole blocks need at both ends.
    assert left.st_blocks * 512 <= length - result.finished.away + 2 * BLOCK
    assert result.finished.away > length * 0.8
    assert await worker.kept.put_result(job.id, KEY)
    assert await digest(worker.blobs, KEY) == wanted


async def test_another_worker_joins_what_it_never_had(
    worker: Worker, bench: Bench, blobs: FullBlobs, tall: Path
) -> None:
    wanted, length = await whole(bench, tall)
    job = await job_of(worker, tall)
    worker.kept.stop_after = 7
    with pytest.raises(StoppedError):
        await worker.make(job)
    await worker.kept.end(Lease(job, 1, 1), flush=True)
    upload = bench.workspace.folder(job.id) / UPLOAD
    content = await asyncio.to_thread(upload.read_bytes)
    await bench.workspace.remove(job.id)
    await asyncio.to_thread(upload.parent.mkdir)
    await asyncio.to_thread(upload.write_bytes, content)
    second = Worker(bench, blobs)
    assert await second.kept.begin(Lease(job, 2, 1)) == 1
    assert second.kept.on_disk(job.id) == 0
    result = await second.go_on(replace(job, runs=1))
    assert result.resumed
    assert second.kept.noted == BANDS - 7 - 1
    assert result.finished.sha256 == wanted
    assert await second.kept.put_result(job.id, KEY)
    assert await digest(blobs, KEY) == wanted
    assert result.path.stat().st_blocks * 512 < length / 2


async def test_a_run_that_begins_again_in_the_same_folder_goes_on(
    worker: Worker, bench: Bench, tall: Path
) -> None:
    wanted, _ = await whole(bench, tall)
    job = await job_of(worker, tall)
    worker.kept.stop_after = 5
    with pytest.raises(StoppedError):
        await worker.make(job)
    await worker.kept.settled(job.id)
    assert len(worker.kept.away(job.id)) == 5
    result = await worker.go_on(replace(job, runs=1))
    assert worker.kept.noted == BANDS - 1
    assert result.finished.sha256 == wanted
    # As when a cancellation could not be recorded: the result is there already.
    again = await worker.go_on(replace(job, runs=2))
    assert again.finished == result.finished
    assert again.path == result.path
    assert await worker.kept.put_result(job.id, KEY)
    assert await digest(worker.blobs, KEY) == wanted


async def test_a_run_from_the_first_byte_on_does_not_use_what_had_left(
    worker: Worker, bench: Bench, tall: Path
) -> None:
    wanted, _ = await whole(bench, tall)
    job = await job_of(worker, tall)
    worker.kept.stop_after = 5
    with pytest.raises(StoppedError):
        await worker.make(job)
    # As for a job that met a full disk; some of its bands may be on their way to the blobs.
    await bench.workspace.keep_only(job.id, UPLOAD)
    result = await worker.go_on(replace(job, runs=1))
    assert worker.kept.noted == 5 + BANDS - 1
    assert result.finished.sha256 == wanted
    assert await worker.kept.put_result(job.id, KEY)
    assert await digest(worker.blobs, KEY) == wanted


@pytest.mark.parametrize("when", ["half", "end"])
async def test_full_blobs_get_the_room_of_the_bands_and_the_disk_the_result(
    worker: Worker, bench: Bench, tall: Path, when: str
) -> None:
    wanted, length = await whole(bench, tall)
    job = await job_of(worker, tall)
    if when == "half":
        worker.kept.stop_after = 5
        with pytest.raises(StoppedError):
            await worker.make(job)
        await worker.kept.settled(job.id)
        assert worker.kept.away(job.id)
        worker.blobs.full = True
        result = await worker.go_on(replace(job, runs=1))
        worker.blobs.full = False
        assert not await worker.kept.put_result(job.id, KEY)  # it is stored as any other
        assert sha256_of(result.path) == result.finished.sha256 == wanted
    else:
        await worker.make(job)
        worker.blobs.full = True
        with pytest.raises(NoSpaceError):
            await worker.kept.put_result(job.id, KEY)
        assert worker.kept.on_disk(job.id) >= length
        worker.blobs.full = False  # the end is tried again until there is room
        assert await worker.kept.put_result(job.id, KEY)
        assert await digest(worker.blobs, KEY) == wanted
    assert not worker.kept.away(job.id)
    assert await worker.bands(job) == []


@pytest.mark.parametrize("harm", ["damage", "unlink"])
async def test_a_lost_piece_gives_no_result(
    worker: Worker, bench: Bench, tall: Path, harm: str
) -> None:
    job = await job_of(worker, tall)
    await worker.make(job)
    blob = await worker.part_of(job, 3)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "unlink":
        await asyncio.to_thread(blob.unlink)
    else:
        await asyncio.to_thread(blob.write_bytes, content)
    with pytest.raises(LostPieceError):
        await worker.kept.put_result(job.id, KEY)
    with pytest.raises(BlobMissingError):
        await worker.blobs.head(KEY)
    assert list((worker.blobs.folder / ".parts").iterdir()) == []
    # Who goes on finds that out, begins anew, and trusts these blobs with no only copy.
    await worker.kept.end(Lease(job, 1, 1))
    await bench.workspace.keep_only(job.id, UPLOAD)
    wanted, _ = await whole(bench, tall)
    second = Worker(bench, worker.blobs)
    assert await second.kept.begin(Lease(job, 2, 1)) is None
    result = await second.go_on(replace(job, runs=1))
    assert (result.finished.sha256, result.finished.away) == (wanted, 0)
    assert sha256_of(result.path) == wanted
    assert not await second.kept.put_result(job.id, KEY)


async def test_where_a_disk_can_t_free_parts_the_result_stays_whole(
    worker: Worker, bench: Bench, tall: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "can_free", lambda _: False)
    wanted, _ = await whole(bench, tall)
    job = await job_of(worker, tall)
    result = await worker.make(job)
    assert result.path.name == "result.png"
    assert (result.finished.sha256, result.finished.away) == (wanted, 0)
    assert not await worker.kept.put_result(job.id, KEY)


async def test_what_the_disk_changed_meanwhile_does_not_leave_it(
    worker: Worker, bench: Bench, tall: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reading of a piece, of which the digest is made, must give the stored bytes."""
    job = await job_of(worker, tall)
    worker.kept.stop_after = 1
    put = worker.blobs.put

    async def put_and_damage(key: str, file: Path) -> None:
        await put(key, file)
        if keys.lease_of(key) is not None:
            part = bench.workspace.folder(job.id) / PART
            content = bytearray(part.read_bytes())
            content[100] ^= 1
            await asyncio.to_thread(part.write_bytes, content)

    monkeypatch.setattr(worker.blobs, "put", put_and_damage)
    with pytest.raises(StoppedError):
        await worker.make(job)
    await worker.kept.settled(job.id)
    assert not worker.kept.away(job.id)


async def test_a_worker_gives_a_job_up_whose_result_can_t_be_joined(
    postgres: PostgresServer, blobs: FullBlobs
) -> None:
    async def joined(job_id: str, key: str) -> bool:
        asked.append((job_id, key))
        raise LostPieceError("it has other bytes")

    asked: list[tuple[str, str]] = []
    lost: list[str] = []
    job = make_job()
    async with postgres.opened_database() as database:
        await SharedJobStore(database, lambda _: (), fair=True).put(job)
        store = WorkerJobStore(
            database, blobs, lambda _: Path(), lambda _: (), lost.append, joined=joined
        )
        worker, models = await database.run(work_queue.register), [job.request.model_name]
        lease = await database.run(lambda c: work_queue.take(c, worker, models))
        assert lease is not None
        held = store.held[job.id] = HeldJob(lease)
        now = lease.job.to(JobState.PROCESSING, started=1.0)
        await store.put(now)
        await store.put(now.to(JobState.COMPLETED, finished=2.0, receipt=RECEIPT))
        assert asked == [(job.id, f"results/{job.id}/{lease.number}.png")]
        assert (held.lost, lost) == (True, [job.id])
        # The worker's next look at its leases does this.
        await database.run(lambda c: work_queue.end_lease(c, job.id, lease.number))
        recorded = await store.get(job.id)
        assert recorded is not None
        assert (recorded.state in ACTIVE, recorded.crashes, recorded.result_key) == (True, 0, "")
        again = await database.run(lambda c: work_queue.take(c, worker, models))
        assert again is not None
        assert again.number > lease.number
