"""Every change of a job is reported in order to all listeners."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.jobs import make_job
from upscaled.errors import UnknownJobError
from upscaled.jobs import updates as updates_module
from upscaled.jobs.job import Attempt, Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.updates import JobUpdate, LaggedError, Stage, Subscription


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    yield store
    await store.close()


async def until_recorded(registry: JobRegistry) -> None:
    while registry._recording:
        await asyncio.wait(registry._recording)


async def test_a_listener_is_told_everything_from_the_queue_to_the_end(
    store: SqliteJobStore,
) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    told: list[JobUpdate] = []

    async def listen(joined: asyncio.Event) -> None:
        async with registry.subscribe(job.id) as updates:
            joined.set()
            told.extend([update async for update in updates])

    joined = asyncio.Event()
    listener = asyncio.create_task(listen(joined))
    await joined.wait()
    registry.report_positions({job.id: 2})
    registry.report_positions({job.id: 2})  # no change, not told
    registry.report_positions({job.id: 1})
    registry.report_stage(job.id, Stage.PREPARING)
    registry.begin(job.id, device="cpu")
    await until_recorded(registry)
    registry.report_positions({job.id: 1})  # it waits no more, not told
    registry.report_stage(job.id, Stage.UPSCALING)
    registry.report_progress(job.id, 40)
    registry.report_progress(job.id, 30)  # never back, not told
    registry.amend(job.id, device="gpu0")
    registry.amend(job.id, attempts=(Attempt("builtin", "gpu0", 0, "broke"),))
    await registry.advance(job.id, JobState.QUEUED, progress=0, device=None)
    await registry.advance(job.id, JobState.FAILED, error="broke")
    await listener
    seen = [
        (u.job.state.value, u.position, u.stage, u.job.progress, u.job.device, len(u.job.attempts))
        for u in told
    ]
    assert seen == [
        ("queued", None, None, 0, None, 0),
        ("queued", 2, None, 0, None, 0),
        ("queued", 1, None, 0, None, 0),
        ("queued", 1, "preparing", 0, None, 0),
        ("processing", None, "preparing", 0, "cpu", 0),
        ("processing", None, "upscaling", 0, "cpu", 0),
        ("processing", None, "upscaling", 40, "cpu", 0),
        ("processing", None, "upscaling", 40, "gpu0", 0),
        ("processing", None, "upscaling", 40, "gpu0", 1),
        ("queued", None, None, 0, None, 1),
        ("failed", None, None, 0, None, 1),
    ]
    numbers = [update.sequence for update in told]
    assert numbers == sorted(set(numbers))
    assert [update.ended for update in told] == [False] * 10 + [True]
    assert not registry._updates._of_job, "of a job that ended nothing is kept"


async def test_a_state_is_told_only_after_it_is_on_the_disk(
    store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, job = JobRegistry(store), make_job()
    on_disk = asyncio.Event()
    put = store.put

    async def slow_put(job: Job, *more: Any, **named: Any) -> None:
        await on_disk.wait()
        await put(job, *more, **named)

    await registry.add(job)
    async with registry.subscribe(job.id) as updates:
        assert (await anext(updates)).job.state is JobState.QUEUED
        monkeypatch.setattr(store, "put", slow_put)
        registry.begin(job.id)
        registry.report_progress(job.id, 10)
        registry.report_stage(job.id, Stage.UPSCALING)
        assert updates.empty
        async with registry.subscribe(job.id) as late:  # nor is the state on its way shown
            assert late.empty
            on_disk.set()
            for listener in (updates, late):
                update = await anext(listener)
                assert (update.job.state, update.job.progress) == (JobState.PROCESSING, 10)
        on_disk.clear()
        ending = asyncio.create_task(registry.advance(job.id, JobState.COMPLETED))
        await asyncio.wait([ending], timeout=0)
        assert updates.empty
        on_disk.set()
        await ending
        assert (await anext(updates)).job == await store.get(job.id)


async def test_a_full_disk_does_not_keep_progress_from_being_told(
    store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)

    async def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    async with registry.subscribe(job.id) as updates:
        await anext(updates)
        monkeypatch.setattr(store, "put", full)
        registry.begin(job.id)
        assert (await anext(updates)).job.state is JobState.PROCESSING
        registry.report_progress(job.id, 10)
        assert (await anext(updates)).job.progress == 10
        with pytest.raises(OSError, match="space"):
            await registry.advance(job.id, JobState.QUEUED)
        assert (await anext(updates)).job.state is JobState.QUEUED
    await registry.ends_done()


async def test_a_slow_listener_misses_changes_in_between_but_never_the_end(
    store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates_module, "_PENDING", 8)
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    async with registry.subscribe(job.id) as updates:
        registry.begin(job.id)
        await until_recorded(registry)
        for percent in range(1, 99):
            registry.report_progress(job.id, percent)
            assert len(updates._pending) <= 8
        await registry.advance(job.id, JobState.COMPLETED, progress=100)
        told = [update async for update in updates]
    assert len(told) <= 9
    assert (told[-1].job.state, told[-1].job.progress) == (JobState.COMPLETED, 100)
    progress = [update.job.progress for update in told]
    assert progress == sorted(progress)


async def test_who_listens_to_all_and_lags_too_far_behind_is_told_so(
    store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates_module, "_PENDING", 4)
    registry = JobRegistry(store)
    async with registry.subscribe_all() as updates:
        jobs = [make_job() for _ in range(12)]
        for job in jobs[:3]:
            await registry.add(job)
            await registry.advance(job.id, JobState.CANCELLED)
        ended: list[str] = []
        while len(ended) < 3:
            update = await anext(updates)
            ended += [update.job.id] if update.ended else []
        assert ended == [job.id for job in jobs[:3]]
        assert updates.empty
        for job in jobs[3:]:
            await registry.add(job)
            await registry.advance(job.id, JobState.CANCELLED)
        with pytest.raises(LaggedError):
            await anext(updates)
        assert not updates._pending


async def test_an_owner_hears_of_all_its_jobs_and_of_no_others(store: SqliteJobStore) -> None:
    registry = JobRegistry(store)
    old, theirs = make_job(owner="anna"), make_job(owner="bert")
    await registry.add(old)
    await registry.add(theirs)
    async with registry.subscribe_all("anna") as anna, registry.subscribe_all() as everybody:
        new = make_job(owner="anna")
        await registry.add(new)
        for job in (theirs, old):
            await registry.advance(job.id, JobState.FAILED, finished=1.0)
        await registry.ended.mark_result_gone(await registry.get(old.id), "expired")
        told = [await anext(anna) for _ in range(4)]
        assert [(u.job.id, u.job.state.value, u.job.result_gone) for u in told] == [
            (old.id, "queued", None),
            (new.id, "queued", None),
            (old.id, "failed", None),
            (old.id, "failed", "expired"),
        ]
        assert anna.empty
        heard = [await anext(everybody) for _ in range(6)]
        assert sum(update.job.id == theirs.id for update in heard) == 2


async def test_who_asks_for_deletions_hears_of_their_own_also_of_missed_ones(
    store: SqliteJobStore,
) -> None:
    registry = JobRegistry(store)
    jobs = [make_job(owner="anna"), make_job(owner="bert"), make_job(owner="anna")]
    for job in jobs:
        await registry.add(job)
        await registry.advance(job.id, JobState.CANCELLED)
    async with (
        registry.subscribe_all("anna", deletions=True) as anna,
        registry.subscribe_all("anna") as only_updates,
    ):
        for job in jobs[:2]:
            await registry.ended.forget(job)
        first = await anna.change()
        assert (first.job_id, first.ended) == (jobs[0].id, True)
        assert anna.empty
        assert only_updates.empty
    await registry.ended.forget(jobs[2])
    async with registry.subscribe_all("anna", deletions=True, after=first.sequence) as anna:
        assert (await anna.change()).job_id == jobs[2].id
        assert anna.empty
    async with registry.subscribe_all("anna", after=first.sequence) as only_updates:
        assert only_updates.empty


async def test_a_job_that_has_ended_is_told_once_and_an_unknown_one_is_an_error(
    store: SqliteJobStore,
) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)
    await registry.advance(job.id, JobState.CANCELLED)
    for now in (registry, JobRegistry(store)):
        async with now.subscribe(job.id) as updates:
            assert [u.job.state async for u in updates] == [JobState.CANCELLED]
    with pytest.raises(UnknownJobError):
        async with registry.subscribe("1" * 19):
            raise AssertionError("there is no such job")
    assert not registry._updates._by_job, "a listener that left is forgotten"


async def test_numbers_of_a_later_run_are_above_those_of_an_earlier_one(
    store: SqliteJobStore,
) -> None:
    earlier, job = JobRegistry(store), make_job()
    await earlier.add(job)
    last = earlier._updates.latest(job).sequence
    later = JobRegistry(store)
    await later.load()
    async with later.subscribe(job.id) as updates:
        assert (await anext(updates)).sequence > last


async def test_who_listens_to_all_again_is_told_what_was_missed_in_order(
    store: SqliteJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates_module, "_PENDING", 4)
    earlier = JobRegistry(store)
    waiting = [make_job(created=float(number)) for number in range(6)]
    for job in waiting:
        await earlier.add(job)
    registry = JobRegistry(store)
    await registry.load()
    async with registry.subscribe_all() as updates:
        first = [await anext(updates) for _ in waiting]
        assert updates.empty
    assert {update.job.id for update in first} == {job.id for job in waiting}
    numbers = [update.sequence for update in first]
    assert numbers == sorted(set(numbers)), "no two changes have one number"
    await registry.advance(waiting[0].id, JobState.CANCELLED)
    registry.report_progress(waiting[1].id, 7)
    async with registry.subscribe_all(after=numbers[2]) as updates:
        told = [await anext(updates) for _ in range(5)]
        assert updates.empty
    changed = {waiting[0].id, waiting[1].id}
    unchanged = [update.job.id for update in first[3:] if update.job.id not in changed]
    assert [update.job.id for update in told[:3]] == unchanged
    last = [(update.job.state.value, update.job.progress) for update in told[3:]]
    assert last == [("cancelled", 0), ("queued", 7)]
    future = registry._updates.sequence + 10**9  # an id from before the clock was set back
    async with registry.subscribe_all(after=future) as updates:
        assert len(updates._pending) == 6


async def test_gathered_updates_are_the_latest_of_each_job_and_an_end_comes_at_once(
    store: SqliteJobStore,
) -> None:
    registry, jobs = JobRegistry(store), [make_job(), make_job()]
    for job in jobs:
        await registry.add(job)
    async with registry.subscribe_all() as updates:
        for percent in range(1, 9):
            for job in jobs:
                registry.report_progress(job.id, percent)
        registry.report_progress(jobs[0].id, 50)
        await updates.gather(0.0)
        told = [await anext(updates) for _ in jobs]
        assert [(u.job.id, u.job.progress) for u in told] == [(jobs[1].id, 8), (jobs[0].id, 50)]
        gathering = asyncio.create_task(updates.gather(3600))
        await asyncio.wait([gathering], timeout=0)
        registry.report_progress(jobs[0].id, 60)
        await asyncio.wait([gathering], timeout=0)
        assert not gathering.done()
        await registry.advance(jobs[1].id, JobState.CANCELLED)
        await gathering
        assert [(await anext(updates)).job.id for _ in jobs] == [jobs[0].id, jobs[1].id]


async def test_many_listeners_are_told_the_same(store: SqliteJobStore) -> None:
    registry, job = JobRegistry(store), make_job()
    await registry.add(job)

    async def last(*, states_only: bool) -> list[int]:
        async with registry.subscribe(job.id, states_only=states_only) as updates:
            return [update.sequence async for update in updates]

    listeners = [asyncio.create_task(last(states_only=False)) for _ in range(50)]
    waiters = [asyncio.create_task(last(states_only=True)) for _ in range(50)]
    await asyncio.wait([*listeners, *waiters], timeout=0)
    registry.report_progress(job.id, 5)
    await registry.advance(job.id, JobState.CANCELLED)
    assert {len(told) for told in await asyncio.gather(*listeners)} == {3}
    assert {len(told) for told in await asyncio.gather(*waiters)} == {2}


async def test_positions_are_worked_out_only_for_those_who_listen(store: SqliteJobStore) -> None:
    registry, jobs = JobRegistry(store), [make_job() for _ in range(3)]
    for job in jobs:
        await registry.add(job)
    waiting = asyncio.create_task(registry.settled(jobs[0].id))
    await asyncio.wait([waiting], timeout=0)
    assert registry._updates.listened_to(jobs) == []
    joined: list[int] = []
    reporter = asyncio.create_task(registry.listened(lambda: joined.append(1)))
    await asyncio.wait([reporter], timeout=0)
    assert not reporter.done()
    async with registry.subscribe(jobs[1].id):
        await reporter
        assert registry._updates.listened_to(jobs) == [jobs[1]]
    assert joined == [1]
    assert not registry._updates.listened.is_set()
    await registry.advance(jobs[0].id, JobState.CANCELLED)
    await waiting


def test_a_change_that_nobody_listens_to_costs_next_to_nothing() -> None:
    # The best of many runs, to exclude the load of a busy machine.
    telling = updates_module.Updates()
    job = make_job()
    best = float("inf")
    for _ in range(50):
        began = time.perf_counter()
        for _ in range(100):
            telling.tell(job)
        best = min(best, (time.perf_counter() - began) / 100)
    assert best < 1e-6
    assert Subscription().empty
