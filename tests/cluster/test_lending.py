"""Bands that a worker lets others do: which come back, and which it does itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from testkit.jobs import make_job
from testkit.postgres import PostgresServer
from testkit.waiting import until
from upscaled.blobs.folder import FolderBlobs
from upscaled.cluster import handed_in, keys, lending, offered_bands, work_queue
from upscaled.cluster.handed_in import NotHandedInError
from upscaled.cluster.lending import Lending
from upscaled.cluster.members import WORKER, Member
from upscaled.cluster.offered_bands import Claim
from upscaled.cluster.records import SharedJobStore
from upscaled.cluster.work_queue import Lease
from upscaled.engines.engine import CPU, ModelFiles, UpscaleTask
from upscaled.engines.pool import Place
from upscaled.imaging import Band, BandRows, EncodedBody, FinishOptions, StripPart
from upscaled.jobs.job import JobRequest
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.postgres_schema import migrate
from upscaled.pictures import RawImage, Size
from upscaled.pipeline.open_bands import OpenBands, Rows, SharedPicture
from upscaled.webhooks.events import messages_of

SIZE = Size(10, 400)
BANDS = [(top, top + 100) for top in range(0, 400, 100)]
ROW_BYTES = 10 * 2 * 3 * 2
"""Of the enlarged rows of a row."""
AS_IT_IS = FinishOptions("webp", SIZE.times(2))
"""A format whose bands are handed in as the network made them."""
PLACE = Place("builtin", CPU)
FILES = ModelFiles(Path("net.param"), Path("net.bin"), 2, "in", "out", 1)
LEASE = 30.0
SECONDS = 30


def right(rows: Rows) -> bytes:
    """Return what every device makes of some rows."""
    return bytes(row % 251 for row in range(*rows) for _ in range(ROW_BYTES))


def handed(rows: Rows, folder: Path, options: FinishOptions, strips: Sequence[bytes] = ()) -> bytes:
    """Return what a worker hands in of a band."""
    native = RawImage(folder / "there", SIZE.times(2))
    native.path.write_bytes(right((0, SIZE.height)))
    own = BandRows.of(Band(*rows), SIZE, native.size, options)
    body = None
    if strips:
        (folder / "strips").write_bytes(b"".join(strips))
        parts = tuple(StripPart(len(strip), 7, 9) for strip in strips)
        body = EncodedBody(folder / "strips", 0, *own.body, parts, 0.5)
    file = folder / "handed"
    file.unlink(missing_ok=True)
    digest = handed_in.write(file, native, own, body)
    content = file.read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    return content


@dataclass
class Desk:
    """A worker with a picture of four bands, and another worker that is a test's."""

    lending: Lending
    database: Database
    blobs: FolderBlobs
    lease: Lease
    picture: SharedPicture
    other: int
    folder: Path
    members: list[Member]
    """The other workers."""
    reached: list[int]
    brought: list[Rows]
    bodies: list[EncodedBody | None]
    mine: list[Rows]
    gate: asyncio.Event
    """The worker's own device waits for it in each band."""

    async def do(self, rows: Rows) -> None:
        await self.gate.wait()
        self.mine.append(rows)
        await asyncio.to_thread(self._write, rows)

    def _write(self, rows: Rows) -> None:
        with self.picture.whole.target.path.open("r+b") as file:
            file.seek(rows[0] * ROW_BYTES)
            file.write(right(rows))

    def run(self) -> asyncio.Task[None]:
        bands = OpenBands(BANDS, self.reached.append)
        helper = self.lending.helper(self.picture)
        return asyncio.create_task(bands.do_all(self.do, {"help-workers": helper}))

    async def claim(self) -> Claim:
        """Wait for an offer and claim it."""
        async with asyncio.timeout(SECONDS):
            while True:
                claim = await self.database.run(
                    lambda c: offered_bands.claim(
                        c, self.other, "key", [self.picture.model_name],
                        without=(), lease_seconds=LEASE,
                    )
                )  # fmt: skip
                if claim is not None:
                    return claim
                await asyncio.sleep(0.01)  # no event tells of the offer in this process

    async def put(self, claim: Claim, content: bytes, sha256: str) -> None:
        file = self.folder / "rows"
        await asyncio.to_thread(file.write_bytes, content)
        key = keys.helped_band(claim.job.id, claim.lease_number, self.other, claim.rows[0], sha256)
        await self.blobs.put(key, file)

    async def complete(self, claim: Claim, sha256: str) -> bool:
        return await self.database.run(lambda c: offered_bands.complete(c, claim, sha256, 2.0))

    async def ended(self, task: asyncio.Task[None]) -> None:
        """Check that the picture is whole, and nothing is left of the offers."""
        async with asyncio.timeout(SECONDS):
            await task
        await self.lending.ended()
        content = await asyncio.to_thread(self.picture.whole.target.path.read_bytes)
        assert content == b"".join(map(right, BANDS))
        assert self.reached == [bottom for _, bottom in BANDS]
        assert sorted(self.mine + self.brought) == BANDS
        assert await self.database.run(self._left) == {}
        assert [blob async for blob in self.blobs.list(keys.bands(self.lease.job.id))] == []
        assert self.lending.lent == {}

    async def _left(self, connection: Connection) -> object:
        job_id, number = self.lease.job.id, self.lease.number
        return await offered_bands.states(connection, job_id, number, LEASE)


@pytest.fixture
async def desk(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Desk]:
    with postgres.database() as url:
        database = Database(url)
        await database.open()
        store = SharedJobStore(database, messages_of, fair=True)
        await database.run(migrate)
        request = JobRequest("net", 2, SIZE.times(2), "png")
        job = make_job(input_size=SIZE, request=request)
        await store.put(job)
        owner, other = [await database.run(work_queue.register) for _ in range(2)]
        lease = await database.run(lambda c: work_queue.take(c, owner, ["net"]))
        assert lease is not None
        blobs = FolderBlobs(tmp_path / "blobs")
        await blobs.open()
        others = [
            Member("other", WORKER, "host", os.getpid(), models=("net",), pixel_keys=("key",))
        ]
        lent = Lending(database, blobs, others.copy, lambda _: lease, LEASE)
        lent.pixel_keys = {PLACE: "key"}
        source = RawImage(tmp_path / "source", SIZE)
        source.path.write_bytes(os.urandom(source.total_bytes))
        target = RawImage(tmp_path / "native", SIZE.times(2))
        target.path.write_bytes(bytes(target.total_bytes))
        whole = UpscaleTask(source, target, FILES, 0, SIZE.height, tile_size=50)
        brought: list[Rows] = []
        bodies: list[EncodedBody | None] = []

        def on_done(rows: Rows, _: float, body: EncodedBody | None) -> None:
            brought.append(rows)
            bodies.append(body)

        picture = SharedPicture(job.id, "net", "work", whole, AS_IT_IS, PLACE, on_done)
        yield Desk(
            lent, database, blobs, lease, picture, other, tmp_path, others, [], brought, bodies, [],
            asyncio.Event(),
        )  # fmt: skip
        await database.close()


async def test_a_band_that_another_worker_did_is_brought(desk: Desk) -> None:
    running = desk.run()
    claim = await desk.claim()
    assert claim.rows == BANDS[1]  # the first one is the worker's own
    content = await asyncio.to_thread(handed, claim.rows, desk.folder, AS_IT_IS)
    sha256 = hashlib.sha256(content).hexdigest()
    await desk.put(claim, content, sha256)
    assert await desk.complete(claim, sha256)
    await until(lambda: desk.brought == [BANDS[1]])
    assert desk.bodies == [None]
    assert desk.reached == []  # its own first band comes first
    desk.gate.set()
    await desk.ended(running)


@pytest.mark.parametrize("fault", ["damaged", "short", "long", "none", "missing", "no digest"])
async def test_a_band_that_is_damaged_or_missing_is_done_again(desk: Desk, fault: str) -> None:
    running = desk.run()
    claim = await desk.claim()
    rows = await asyncio.to_thread(handed, claim.rows, desk.folder, AS_IT_IS)
    content = {
        "damaged": b"x" + rows[1:],
        "short": rows[:-1],
        "long": rows + b"x",
        "none": b"",
    }.get(fault, rows)
    sha256 = hashlib.sha256(rows if fault == "damaged" else content).hexdigest()
    if fault not in {"missing", "no digest"}:
        await desk.put(claim, content, sha256)
    assert await desk.complete(claim, "../" * 20 if fault == "no digest" else sha256)
    await until(lambda: desk.lending.lent == {})
    desk.gate.set()
    await desk.ended(running)
    assert desk.brought == []


async def test_of_an_encoded_band_come_its_strips_and_the_rows_that_others_need(desk: Desk) -> None:
    options = FinishOptions("jpg", SIZE.times(2))
    desk.picture = replace(desk.picture, options=options)
    running = desk.run()
    claim = await desk.claim()
    own = BandRows.of(Band(*claim.rows), SIZE, SIZE.times(2), options)
    assert (own.native, own.body) == ((200, 400), (256, 384))
    strips = [b"one", b"two or more"]
    content = await asyncio.to_thread(handed, claim.rows, desk.folder, options, strips)
    sha256 = hashlib.sha256(content).hexdigest()
    await desk.put(claim, content, sha256)
    assert await desk.complete(claim, sha256)
    await until(lambda: desk.brought == [BANDS[1]])
    (body,) = desk.bodies
    assert body is not None
    assert (body.top, body.bottom, body.score) == (256, 384, 0.5)
    assert body.strips == (StripPart(3, 7, 9), StripPart(11, 7, 9))
    assert (await asyncio.to_thread(body.path.read_bytes))[body.offset :] == b"onetwo or more"
    row = SIZE.width * 2 * 3
    native = await asyncio.to_thread(desk.picture.whole.target.path.read_bytes)
    wanted = right((0, SIZE.height))
    for first, last in ((200, 256), (384, 400)):
        assert native[first * row : last * row] == wanted[first * row : last * row]
    assert native[256 * row : 384 * row] == bytes(128 * row)
    running.cancel()
    await asyncio.wait([running])
    await desk.lending.ended()


@pytest.mark.parametrize(
    "line", [b"[]", b"{", b'{"score": 2}', b'{"strips": [[0, 1, 1]]}', b'{"strips": [[8, 1, 1]]}']
)
def test_a_file_that_is_no_band_is_not_used(line: bytes, tmp_path: Path) -> None:
    native = RawImage(tmp_path / "native", SIZE.times(2))
    native.path.write_bytes(bytes(native.total_bytes))
    for options in (AS_IT_IS, FinishOptions("png", SIZE.times(2))):
        own = BandRows.of(Band(*BANDS[1]), SIZE, native.size, options)
        for rest in (b"", b"123456789", right(BANDS[1])):
            (tmp_path / "file").write_bytes(line + b"\n" + rest)
            with pytest.raises(NotHandedInError):
                handed_in.read(tmp_path / "file", native, own)
    assert native.path.read_bytes() == bytes(native.total_bytes)


async def test_a_band_of_a_lost_worker_is_done_before_the_others(desk: Desk) -> None:
    running = desk.run()
    claim = await desk.claim()
    desk.members.clear()
    await desk.database.run(
        lambda c: c.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '31 s' "
            "WHERE id = %s", (desk.other,),
        )
    )  # fmt: skip
    await until(lambda: desk.lending.lent == {})
    assert not await desk.complete(claim, "a" * 64)
    desk.gate.set()
    await desk.ended(running)
    assert desk.mine == BANDS


async def test_a_slow_worker_is_waited_for_no_longer_than_a_band_takes(desk: Desk) -> None:
    running = desk.run()
    claim = await desk.claim()
    desk.gate.set()
    await desk.ended(running)
    assert desk.mine == [BANDS[0], BANDS[2], BANDS[3], BANDS[1]]
    assert not await desk.complete(claim, "a" * 64)


async def test_what_nobody_claims_is_taken_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "_UNWANTED_SECONDS", 0.0)
    running = desk.run()
    await until(lambda: len(desk.lending.lent) == 1)
    await until(lambda: desk.lending.lent == {})
    desk.gate.set()
    await desk.ended(running)
    assert desk.mine == BANDS


async def test_without_the_database_the_worker_does_all_bands(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = desk.run()
    claim = await desk.claim()

    async def refused(*_: object) -> object:
        raise psycopg.errors.InsufficientPrivilege("permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(offered_bands, "states", refused)
        await until(lambda: desk.lending.lent == {})
    desk.gate.set()
    await desk.ended(running)
    assert desk.mine == BANDS
    assert not await desk.complete(claim, "a" * 64)


async def test_a_worker_whose_lease_has_ended_offers_nothing(desk: Desk) -> None:
    number = desk.lease.number
    await desk.database.run(lambda c: work_queue.end_lease(c, desk.lease.job.id, number))
    desk.gate.set()
    await desk.ended(desk.run())
    assert sorted(desk.mine) == BANDS


async def test_a_worker_whose_run_ends_withdraws_its_offers(desk: Desk) -> None:
    running = desk.run()
    claim = await desk.claim()
    await desk.put(claim, right(claim.rows), "a" * 64)
    running.cancel()
    await asyncio.wait([running])
    await desk.lending.ended()
    assert await desk.database.run(desk._left) == {}
    assert [blob async for blob in desk.blobs.list(keys.BANDS)] == []


async def test_who_can_help(desk: Desk) -> None:
    model, job_id = desk.picture.model_name, desk.picture.job_id
    member = Member("other", WORKER, "host", 1, models=(model,), pixel_keys=("key", "key", "x"))
    for other, can, devices in (
        (member, True, 2),
        (replace(member, jobs=("1",)), True, 0),  # it may be idle later
        (replace(member, state="failing"), True, 0),
        (replace(member, models=()), False, 0),
        (replace(member, pixel_keys=("x",)), False, 0),
    ):
        those = [other]
        lent = Lending(desk.database, desk.blobs, those.copy, lambda _: desk.lease, LEASE)
        lent.pixel_keys = {PLACE: "key"}
        assert lent.can_help(job_id, model, PLACE) is can
        assert lent.idle_devices(model, "key") == devices
        assert not lent.can_help(job_id, model, Place("binary", CPU))
