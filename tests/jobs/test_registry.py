import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

import upscaled.jobs.registry
from testkit.jobs import make_job
from upscaled.errors import UnknownJobError
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.registry import JobRegistry, NotUnderWayError
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.store import SubmissionKey
from upscaled.jobs.webhook_messages import Message


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    yield store
    await store.close()


async def test_an_unknown_job_is_an_error(store: SqliteJobStore) -> None:
    with pytest.raises(UnknownJobError, match="no job of this id"):
        await JobRegistry(store).get("1" * 19)
    with pytest.raises(UnknownJobError):
        await JobRegistry(store).get("../etc")


async def test_percent_never_goes_back_and_100_comes_only_with_the_end(
    store: SqliteJobStore,
) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    registry.begin(job.id)
    seen = []
    for percent in (5, 50, 20, 100):
        registry.report_progress(job.id, percent)
        seen.append((await registry.get(job.id)).progress)
    assert seen == [5, 50, 50, 99]
    await registry.advance(job.id, JobState.COMPLETED, progress=100)
    assert (await registry.get(job.id)).progress == 100


async def test_of_a_cancellation_and_a_completion_exactly_one_wins(store: SqliteJobStore) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    registry.begin(job.id)
    ends = await asyncio.gather(
        registry.advance(job.id, JobState.CANCELLED),
        registry.advance(job.id, JobState.COMPLETED),
        return_exceptions=True,
    )
    assert [type(end) for end in ends].count(NotUnderWayError) == 1
    assert (await registry.get(job.id)).state is JobState.CANCELLED


async def test_waiting_for_a_job_ends_with_it(store: SqliteJobStore) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    waiting = asyncio.create_task(registry.settled(job.id))
    await registry.advance(job.id, JobState.FAILED, error="broke")
    assert (await waiting).error == "broke"


async def test_unfinished_jobs_are_taken_up_by_the_next_registry(store: SqliteJobStore) -> None:
    jobs = [make_job(created=float(n)) for n in range(4)]
    registry = JobRegistry(store)
    for job in jobs:
        await registry.add(job)
    registry.begin(jobs[1].id)
    await registry.advance(jobs[2].id, JobState.CANCELLED)
    while registry._recording:
        await asyncio.wait(registry._recording)
    taken = await JobRegistry(store).load()
    assert [(job.id, job.state) for job in taken] == [
        (jobs[0].id, JobState.QUEUED),
        (jobs[1].id, JobState.PROCESSING),
        (jobs[3].id, JobState.QUEUED),
    ]


async def test_a_beginning_is_recorded_by_itself_and_never_over_an_end(
    store: SqliteJobStore,
) -> None:
    registry, begun, cancelled = JobRegistry(store), make_job(), make_job(created=2.0)
    for job in (begun, cancelled):
        await registry.add(job)
        registry.begin(job.id, device="cpu")
        assert (await registry.get(job.id)).state is JobState.PROCESSING
    await registry.advance(cancelled.id, JobState.CANCELLED)
    while registry._recording:
        await asyncio.wait(registry._recording)
    recorded = [await store.get(job.id) for job in (begun, cancelled)]
    assert [(job.state, job.device) for job in recorded if job] == [
        (JobState.PROCESSING, "cpu"),
        (JobState.CANCELLED, "cpu"),
    ]
    with pytest.raises(NotUnderWayError):
        registry.begin(cancelled.id)


class _FullDisk(SqliteJobStore):
    full = False

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.refusing = asyncio.Event()

    async def put(
        self,
        job: Job,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        if self.full:
            self.refusing.set()
            raise OSError(28, "No space left on device")
        await super().put(job, key, messages=messages)


async def test_a_job_that_could_not_be_written_down_was_not_accepted(tmp_path: Path) -> None:
    store = _FullDisk(tmp_path / "jobs.sqlite3")
    await store.open()
    registry, job = JobRegistry(store), make_job()
    store.full = True
    with pytest.raises(OSError, match="No space"):
        await registry.add(job)
    assert registry.count(JobState.QUEUED) == 0
    await store.close()


async def test_a_beginning_is_recorded_as_soon_as_the_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscaled.jobs.registry, "_RECORD_AGAIN_SECONDS", 0.01)
    store = _FullDisk(tmp_path / "jobs.sqlite3")
    await store.open()
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    store.full = True
    registry.begin(job.id, runs=1)
    await store.refusing.wait()
    store.full = False
    while registry._recording:
        await asyncio.wait(registry._recording)
    recorded = await store.get(job.id)
    assert recorded is not None
    assert (recorded.state, recorded.runs) == (JobState.PROCESSING, 1)
    # On a disk that stays full it keeps nobody from stopping.
    other = make_job(created=2.0)
    await registry.add(other)
    store.full = True
    registry.begin(other.id)
    await registry.ends_done()
    assert not registry._recording
    await store.close()


async def test_an_end_that_could_not_be_written_down_can_be_tried_again(tmp_path: Path) -> None:
    store = _FullDisk(tmp_path / "jobs.sqlite3")
    await store.open()
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    store.full = True
    with pytest.raises(OSError, match="No space"):
        await registry.advance(job.id, JobState.CANCELLED)
    store.full = False
    await registry.advance(job.id, JobState.CANCELLED)
    assert (await registry.get(job.id)).state is JobState.CANCELLED
    await store.close()


async def test_what_fails_after_the_end_is_recorded_does_not_undo_the_end(
    store: SqliteJobStore, caplog: pytest.LogCaptureFixture
) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    registry.begin(job.id)
    failures = [OSError(24, "Too many open files"), OSError(5, "Input/output error")]
    tidied = asyncio.Event()

    async def tidy() -> None:
        if failures:
            raise failures.pop()
        tidied.set()

    await registry.advance(job.id, JobState.COMPLETED, tidy=tidy, progress=100)
    assert (await registry.get(job.id)).state is JobState.COMPLETED
    assert (await registry.settled(job.id)).state is JobState.COMPLETED
    assert registry.peek(job.id) is None
    with pytest.raises(NotUnderWayError):
        await registry.advance(job.id, JobState.FAILED)
    assert "can't be tidied yet" in caplog.text
    await registry.ended.tidy_again()
    assert not tidied.is_set()
    await registry.ended.tidy_again()
    assert tidied.is_set()
    tidied.clear()
    await registry.ended.tidy_again()
    assert not tidied.is_set(), "what succeeded is not done again"


@pytest.mark.parametrize("deleted_first", [True, False])
async def test_a_job_that_is_deleted_while_its_download_ends_stays_deleted(
    store: SqliteJobStore, deleted_first: bool
) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    registry.begin(job.id)
    job = await registry.advance(job.id, JobState.COMPLETED, progress=100)
    changes = [
        registry.ended.mark_result_gone(job, "downloaded"),
        registry.ended.mark_delivered(job.id, 1.0),
    ]
    deletion = registry.ended.forget(job)
    await asyncio.gather(
        *([deletion, *changes] if deleted_first else [*changes, deletion]), return_exceptions=True
    )
    assert await store.get(job.id) is None
    assert registry.ended.all_unrecorded() == []
    with pytest.raises(UnknownJobError):
        await registry.get(job.id)


async def test_the_first_reason_why_a_result_is_gone_stands(store: SqliteJobStore) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    registry.begin(job.id)
    job = await registry.advance(job.id, JobState.COMPLETED, progress=100)
    await registry.ended.mark_result_gone(job, "downloaded")
    await registry.ended.mark_result_gone(job, "expired")
    await registry.ended.mark_delivered(job.id, 1.0)
    stored = await store.get(job.id)
    assert stored is not None and stored.result_gone == "downloaded"
    assert (await registry.get(job.id)).result_gone == "downloaded"
