"""Identical submissions share the work, and the cache answers later ones."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_processing, until_progress
from testkit.waiting import until
from upscaled.callers import Caller
from upscaled.config.settings import Config
from upscaled.errors import EngineError, NoSpaceError, ResultGoneError
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.store import JobFilter
from upscaled.pipeline.run import PipelineRun
from upscaled.service.followers import Followers
from upscaled.service.service import Service

COFFEE = DATA / "coffee.jpg"
SLOW = {"model_name": "realesrgan-x4plus", "scale": "4"}


class Runs:
    """Counts the runs of the pipeline, and may hold or fail them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[str] = []
        self.failures: list[Exception] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        produce = PipelineRun.produce

        async def counted(run: PipelineRun) -> Any:
            self.jobs.append(run._job.id)
            run._callbacks.progress(40)
            await self.go_on.wait()
            if self.failures:
                raise self.failures.pop()
            return await produce(run)

        monkeypatch.setattr(PipelineRun, "produce", counted)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, models_dir: Path) -> Callable[..., Config]:
    def make(**settings: str) -> Config:
        return make_config(tmp_path / "data", models_dir, **settings)

    return make


def content_of(data_dir: Path, job: Job) -> bytes:
    """Return the result of a job."""
    return (data_dir / "jobs" / job.id / "result.png").read_bytes()


async def test_identical_submissions_are_done_once_and_each_has_its_own_result(
    config: Callable[..., Config], tmp_path: Path, thumbnail: Path, runs: Runs
) -> None:
    runs.go_on.clear()
    async with running(config()) as service:
        jobs = await asyncio.gather(*(submit(service, thumbnail, client_ref=str(number))
                                      for number in range(50)))  # fmt: skip
        assert len({job.id for job in jobs}) == 50
        await until(lambda: runs.jobs)
        for job in jobs:
            await until_progress(service, job.id, 40)
        runs.go_on.set()
        done = [await service.jobs.wait(job.id) for job in jobs]
        assert [job.state for job in done] == [JobState.COMPLETED] * 50
        assert len(runs.jobs) == 1
        assert service.jobs_joined == 49
        assert {job.client_ref for job in done} == {str(number) for number in range(50)}
        assert sorted(job.receipt.get("shared", False) for job in done) == [False] + [True] * 49
        assert len({content_of(tmp_path / "data", job) for job in done}) == 1
        # What one caller has downloaded takes nothing from the others.
        await service.jobs.delivered(done[0].id)
        with pytest.raises(ResultGoneError):
            await service.jobs.result(done[0].id)
        assert (await service.jobs.result(done[1].id)).path.exists()


@pytest.mark.parametrize("change", [{"scale": "3"}, {"tta": "true"}, {"format": "webp"},
                                    {"background": "#000000"}, {"tile_size": "64"},
                                    {"keep_metadata": "false"}])  # fmt: skip
async def test_other_fields_are_other_work(
    config: Callable[..., Config], thumbnail: Path, runs: Runs, change: dict[str, str]
) -> None:
    runs.go_on.clear()
    async with running(config(storage__result_cache_mb="10")) as service:
        jobs = [await submit(service, thumbnail), await submit(service, thumbnail, **change)]
        runs.go_on.set()
        for job in jobs:
            assert (await service.jobs.wait(job.id)).error is None
        again = await submit(service, thumbnail, **change)
        assert again.receipt["cached"] is True
        assert len(runs.jobs) == 2


async def test_owners_share_neither_work_nor_results(
    config: Callable[..., Config], tmp_path: Path, thumbnail: Path, runs: Runs
) -> None:
    async def send(service: Service, owner: str) -> Job:
        upload = service.submissions.reserve_upload()
        await asyncio.to_thread(shutil.copy, thumbnail, upload)
        fields = {"model_name": "realesr-animevideov3", "scale": "2"}
        return await service.submissions.submit(fields, upload, "a.png", Caller(owner, owner))

    runs.go_on.clear()
    async with running(config(storage__result_cache_mb="10")) as service:
        jobs = [await send(service, owner) for owner in ("ann", "bob", "ann")]
        runs.go_on.set()
        for job in jobs:
            await service.jobs.wait(job.id)
        assert len(runs.jobs) == 2
        assert (await send(service, "bob")).state is JobState.COMPLETED
        assert (await send(service, "cy")).state is JobState.QUEUED


async def test_a_cancelled_leader_leaves_its_work_to_its_followers(
    config: Callable[..., Config], runs: Runs
) -> None:
    async with running(config()) as service:
        leader = await submit(service, COFFEE, **SLOW)
        followers = [await submit(service, COFFEE, **SLOW) for _ in range(3)]
        await until_processing(service, leader.id)
        assert (await until_processing(service, followers[2].id)).device is not None
        assert (await service.jobs.cancel(leader.id)).state is JobState.CANCELLED
        await until(lambda: len(runs.jobs) == 2)
        heir = runs.jobs[1]
        assert heir == followers[0].id
        for job in followers[1:]:
            assert (await service.jobs.cancel(job.id)).state is JobState.CANCELLED
        assert (await until_processing(service, heir)).state is JobState.PROCESSING
        await service.jobs.cancel(heir)
        assert len(runs.jobs) == 2


async def test_an_heir_goes_on_from_the_last_band(
    config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1 << 16)
    fast = {"model_name": "realesr-animevideov3", "scale": "2"}
    async with running(config()) as service:
        leader = await submit(service, COFFEE, **fast)
        follower = await submit(service, COFFEE, **fast)
        await until((tmp_path / "data/jobs" / leader.id / "checkpoint").exists)
        await service.jobs.cancel(leader.id)
        done = await service.jobs.wait(follower.id)
        assert done.state is JobState.COMPLETED
        assert "resumed" in done.receipt["seconds"]
        assert "shared" not in done.receipt


async def test_a_failed_leader_fails_nobody_else(
    config: Callable[..., Config], thumbnail: Path, runs: Runs
) -> None:
    runs.go_on.clear()
    runs.failures = [EngineError("No such luck.", retryable=False)]
    async with running(config()) as service:
        jobs = [await submit(service, thumbnail) for _ in range(3)]
        runs.go_on.set()
        ends = [await service.jobs.wait(job.id) for job in jobs]
        assert [job.state.value for job in ends] == ["failed", "completed", "completed"]
        assert ends[0].error == "No such luck."
        assert ends[2].receipt["shared"] is True
        assert runs.jobs == [jobs[0].id, jobs[1].id]


async def test_a_leader_that_is_not_recorded_leaves_its_followers_a_leader(
    config: Callable[..., Config], thumbnail: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(config()) as service:
        add, refusals = service._registry.add, [NoSpaceError("The disk is full.")]
        follows = asyncio.Event()

        async def refused(*arguments: Any) -> None:
            if refusals:
                refusal = refusals.pop()
                await follows.wait()
                raise refusal
            await add(*arguments)

        monkeypatch.setattr(service._registry, "add", refused)
        leader = asyncio.create_task(submit(service, thumbnail))
        await until(lambda: not refusals)
        follower = await submit(service, thumbnail)
        follows.set()
        with pytest.raises(NoSpaceError):
            await leader
        assert (await service.jobs.wait(follower.id)).state is JobState.COMPLETED
        assert runs.jobs == [follower.id]


async def test_the_cache_answers_at_once_and_its_job_lives_as_any_other(
    config: Callable[..., Config], tmp_path: Path, thumbnail: Path, runs: Runs
) -> None:
    data = tmp_path / "data"
    async with running(config(storage__result_cache_mb="10")) as service:
        first = await service.jobs.wait((await submit(service, thumbnail)).id)
        content = content_of(data, first)
        await service.jobs.delivered(first.id)
        again = await submit(service, thumbnail, client_ref="again")
        assert (again.state, again.progress, again.client_ref) == (JobState.COMPLETED, 100, "again")
        assert again.receipt == {**first.receipt, "cached": True}
        assert (again.input_size, again.client) == (first.input_size, "")
        assert content_of(data, again) == content
        assert sorted(path.name for path in (data / "jobs" / again.id).iterdir()) == ["result.png"]
        await service.jobs.delivered(again.id)
        assert not list((data / "jobs").iterdir())
        assert (service.result_cache.hits, service.result_cache.misses) == (1, 1)
    async with running(config(storage__result_cache_mb="10")) as service:
        third = await submit(service, thumbnail)
        assert third.receipt["cached"] is True
        assert len(runs.jobs) == 1
        await service.jobs.delete(third.id)  # what is deleted is gone from the cache too
        assert (await submit(service, thumbnail)).state is JobState.QUEUED


async def test_a_damaged_entry_is_not_served_and_the_work_is_done_again(
    config: Callable[..., Config], tmp_path: Path, thumbnail: Path, runs: Runs
) -> None:
    data = tmp_path / "data"
    async with running(config(storage__result_cache_mb="10")) as service:
        first = await service.jobs.wait((await submit(service, thumbnail)).id)
        content = content_of(data, first)
        await service.jobs.delivered(first.id)
        (entry,) = [path for path in (data / "cache").iterdir() if path.suffix != ".json"]
        entry.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        again = await submit(service, thumbnail)
        assert again.state is JobState.QUEUED
        done = await service.jobs.wait(again.id)
        assert "cached" not in done.receipt
        assert content_of(data, done) == content
        assert len(runs.jobs) == 2
        assert service.result_cache.corrupted == 1


async def test_another_network_of_the_same_name_is_other_work(
    tmp_path: Path, models_dir: Path, thumbnail: Path, runs: Runs
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    names = {"a": "realesr-animevideov3-x2", "b": "realesr-animevideov3-x3"}

    async def install(name: str) -> None:
        for suffix in (".param", ".bin"):
            await asyncio.to_thread(
                shutil.copy, models_dir / (names[name] + suffix), models / ("own" + suffix)
            )

    await install("a")
    config = make_config(
        tmp_path / "data", models, storage__result_cache_mb="10", upscaler__default_model="own"
    )
    fields = {"model_name": "own", "scale": "2"}
    async with running(config) as service:
        first = await service.jobs.wait((await submit(service, thumbnail, **fields)).id)
        assert (await submit(service, thumbnail, **fields)).receipt["cached"] is True
        await install("b")
        await service.models.rescan()
        other = await service.jobs.wait((await submit(service, thumbnail, **fields)).id)
        assert "cached" not in other.receipt
        assert other.receipt["output"]["sha256"] != first.receipt["output"]["sha256"]
        assert len(runs.jobs) == 2


async def test_waiting_jobs_share_their_work_again_after_a_restart(
    config: Callable[..., Config], thumbnail: Path, runs: Runs
) -> None:
    runs.go_on.clear()
    async with running(config(server__drain_seconds="0")) as service:
        jobs = [await submit(service, thumbnail) for _ in range(4)]
        await until_progress(service, jobs[3].id, 40)
    runs.go_on.set()
    async with running(config()) as service:
        done = [await service.jobs.wait(job.id) for job in jobs]
        assert [job.state for job in done] == [JobState.COMPLETED] * 4
        assert [job.crashes for job in done] == [0] * 4
        assert len(runs.jobs) == 2


async def test_a_follower_left_behind_by_a_crash_takes_the_cached_result(
    config: Callable[..., Config],
    thumbnail: Path,
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"storage__result_cache_mb": "10", "server__drain_seconds": "0"}
    runs.go_on.clear()
    with monkeypatch.context() as dying:

        async def never(*_: object) -> bool:
            return await asyncio.Future()

        dying.setattr(Followers, "_served", never)
        async with running(config(**settings)) as service:
            leader, follower = await submit(service, thumbnail), await submit(service, thumbnail)
            runs.go_on.set()
            await service.jobs.wait(leader.id)
    async with running(config(**settings)) as service:
        done = await service.jobs.wait(follower.id)
        assert (done.state, done.receipt["cached"]) == (JobState.COMPLETED, True)
        assert runs.jobs == [leader.id]


async def test_a_picture_that_kills_the_server_fails_all_who_want_it(
    config: Callable[..., Config], thumbnail: Path, runs: Runs
) -> None:
    runs.go_on.clear()
    async with running(config(server__drain_seconds="0")) as service:
        jobs = [await submit(service, thumbnail) for _ in range(3)]
        await until(lambda: runs.jobs)
        crashed = await service.jobs.get(jobs[0].id)
    # As the server leaves it when it dies for the third time.
    await _record(config(), replace(crashed, state=JobState.PROCESSING, crashes=2))
    async with running(config()) as service:
        ends = [await service.jobs.wait(job.id) for job in jobs]
        assert [job.state for job in ends] == [JobState.FAILED] * 3
        assert len({job.error for job in ends}) == 1
        assert "died 3 times" in (ends[2].error or "")
        assert len(runs.jobs) == 1


async def _record(config: Config, job: Job) -> None:
    store = SqliteJobStore(config.data_dir / "jobs.sqlite3")
    await store.open()
    await store.put(job)
    await store.close()


async def test_joined_jobs_are_listed_by_the_state_that_they_show(
    config: Callable[..., Config], thumbnail: Path, runs: Runs
) -> None:
    runs.go_on.clear()
    async with running(config()) as service:
        jobs = [await submit(service, thumbnail) for _ in range(3)]
        await until_progress(service, jobs[0].id, 40)
        service._registry.begin(jobs[0].id)
        for job in jobs:
            await until_processing(service, job.id)
        for state, expected in ((JobState.PROCESSING, jobs), (JobState.QUEUED, [])):
            found = await service.jobs.page(JobFilter("", state), None, 10)
            assert [job.id for job in found] == [job.id for job in reversed(expected)]
        first, *_ = found = await service.jobs.page(JobFilter("", JobState.PROCESSING), None, 1)
        assert len(found) == 1
        others = await service.jobs.page(
            JobFilter("", JobState.PROCESSING), (first.created, first.id), 10
        )
        assert [job.id for job in others] == [jobs[1].id, jobs[0].id]
        runs.go_on.set()
        for job in jobs:
            await service.jobs.wait(job.id)


async def test_who_wants_no_shared_work_switches_it_off(
    config: Callable[..., Config], thumbnail: Path, runs: Runs
) -> None:
    async with running(config(features__join_identical="false")) as service:
        jobs = [await submit(service, thumbnail) for _ in range(3)]
        for job in jobs:
            assert "shared" not in (await service.jobs.wait(job.id)).receipt
        assert len(runs.jobs) == 3


async def test_a_full_disk_takes_the_cache_first(
    config: Callable[..., Config], thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(config(storage__result_cache_mb="10")) as service:
        first = await service.jobs.wait((await submit(service, thumbnail)).id)
        await service.jobs.delivered(first.id)
        usage, free = shutil.disk_usage, service.result_cache.free

        async def freed(count: int) -> bool:
            deleted = await free(count)
            monkeypatch.setattr(shutil, "disk_usage", usage)
            return deleted

        monkeypatch.setattr(service.result_cache, "free", freed)
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: type(usage(path))(1 << 30, 1 << 30, 1 << 20)
        )
        other = await submit(service, thumbnail, scale="3")
        assert (await service.jobs.wait(other.id)).state is JobState.COMPLETED
        assert len(service.result_cache) == 1
