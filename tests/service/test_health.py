"""Health: starting, ok, failing, according to the self-test and to jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from testkit.running import Api, Server, a_picture, configured
from testkit.services import make_config, running, submit, until_processing
from testkit.waiting import until
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.binary.program import Flavour
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Device, DeviceKind, Engine, ProgressCallback, UpscaleTask
from upscaled.engines.pool import EnginePool, Place
from upscaled.errors import EngineError
from upscaled.imaging import Imaging
from upscaled.imaging.sandbox.sandbox import Confinement
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.service import self_test
from upscaled.service.health import Health, HealthState
from upscaled.service.self_test import SelfTest

GPU = Device(0, "a GPU", DeviceKind.DISCRETE)
ON_GPU, ON_CPU = Place("binary", GPU), Place("builtin", CPU)
FAST = "realesr-animevideov3"


class Trial:
    """Stands for the self-test: each run gives the next outcome and is counted."""

    def __init__(self, *outcomes: Place | Exception) -> None:
        self._outcomes = list(outcomes)
        self.ran: asyncio.Queue[int] = asyncio.Queue()
        self.runs = 0

    async def __call__(self) -> Place:
        self.runs += 1
        self.ran.put_nowait(self.runs)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class CheckedHealth(Health):
    """Reports the state after each check."""

    def __init__(self, test: Trial) -> None:
        super().__init__(test, lambda: True)
        self.checked: asyncio.Queue[HealthState] = asyncio.Queue()

    async def check(self) -> None:
        await super().check()
        self.checked.put_nowait(self.state)


class Running:
    """Runs a `Health` for the length of a block."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._health.run(), name="health")

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_it_is_starting_until_the_self_test_has_passed() -> None:
    health = Health(Trial(ON_GPU), lambda: True)
    assert health.state is HealthState.STARTING
    async with Running(health):
        assert await health.known() is HealthState.OK
    assert health.place is ON_GPU


@pytest.mark.parametrize("error", [EngineError("No device can upscale."), ValueError("a bug")])
async def test_it_is_failing_with_a_reason_when_the_self_test_fails(error: Exception) -> None:
    health = Health(Trial(error), lambda: True)
    async with Running(health):
        assert await health.known() is HealthState.FAILING
    assert health.reason
    assert "a bug" not in health.reason


async def test_a_failed_self_test_is_repeated_until_the_device_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("upscaled.service.health.RETRY_SECONDS", 0.01)
    health = CheckedHealth(Trial(EngineError("gone"), EngineError("gone"), ON_GPU))
    async with Running(health), asyncio.timeout(30):
        states = [await health.checked.get() for _ in range(3)]
    assert states == [HealthState.FAILING, HealthState.FAILING, HealthState.OK]
    assert health.reason is None


async def test_a_doubt_is_looked_into_at_once_when_idle() -> None:
    health = CheckedHealth(Trial(ON_GPU, EngineError("gone")))
    async with Running(health), asyncio.timeout(30):
        assert await health.checked.get() is HealthState.OK
        health.doubt()
        assert await health.checked.get() is HealthState.FAILING


async def test_while_jobs_are_under_way_nothing_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upscaled.service.health.RETRY_SECONDS", 0.01)
    trial = Trial(ON_GPU, ON_CPU)
    runs_when_asked: list[int] = []

    def is_idle() -> bool:
        runs_when_asked.append(trial.runs)
        return len(runs_when_asked) == 4

    health = Health(trial, is_idle)
    async with Running(health), asyncio.timeout(30):
        await health.known()
        health.doubt()
        while trial.runs == 1:
            await trial.ran.get()
    assert runs_when_asked == [1, 1, 1, 1]


async def test_a_job_that_came_out_right_ends_the_failing() -> None:
    health = Health(Trial(EngineError("gone")), lambda: True)
    async with Running(health):
        await health.known()
        health.worked(ON_CPU)
    assert (health.state, health.reason, health.place) == (HealthState.OK, None, ON_CPU)


# --- the self-test itself -----------------------------------------------------------------------


class BlackEngine(BuiltinEngine):
    """A GPU that reports success and returns black pictures."""

    def __init__(self) -> None:
        super().__init__(GPU)

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> None:  # type: ignore[override]
        """Leave the target as it was made: black."""


@pytest.fixture
async def make_test(tmp_path: Path, models_dir: Path) -> AsyncIterator[Callable[..., SelfTest]]:
    """Make a `SelfTest` over engines; the first is the GPU's, others are spares on the CPU."""
    workspace = Workspace(tmp_path / "data")
    await workspace.open()
    imaging = Imaging(max_pixels=10_000)
    models = ModelCatalog(models_dir, cache_file=tmp_path / "models.json")
    pools = []

    def make(first: Callable[[], Engine], *spares: Callable[[], Engine]) -> SelfTest:
        pool = EnginePool([(ON_GPU, 1, first)], [(ON_CPU, spare) for spare in spares])
        pools.append(pool)
        return SelfTest(pool, models, imaging, workspace, FAST)

    yield make
    for pool in pools:
        await pool.close()
    await imaging.close()
    assert list(workspace.jobs_dir.iterdir()) == []
    workspace.close()


async def test_a_gpu_that_makes_black_pictures_gives_way_to_the_cpu(
    make_test: Callable[..., SelfTest],
) -> None:
    assert await make_test(BlackEngine, lambda: BuiltinEngine(CPU)).run() == ON_CPU


async def test_where_no_device_works_the_reason_names_each(
    make_test: Callable[..., SelfTest], tmp_path: Path
) -> None:
    def missing() -> Engine:
        return BinaryEngine(tmp_path / "no-such-program", GPU, flavour=Flavour.OFFICIAL)

    with pytest.raises(EngineError, match=r"No device can upscale\. vulkan:0 \(binary\): "):
        await make_test(missing).run()


async def test_every_official_model_passes_the_self_test(tmp_path: Path, models_dir: Path) -> None:
    for model in ("realesrgan-x4plus", FAST):
        settings = {"upscaler__default_model": model, "upscaler__gpu_ids": "-1"}
        config = make_config(tmp_path / model, models_dir, **settings)
        async with running(config) as service:
            assert (await service.reports.health())["status"] == "starting"
            service.watch_health()
            assert await service.health_known() is HealthState.OK
            told = await service.reports.health()
    assert (told["status"], told["device"], told["cpu_fallback"]) == ("ok", "cpu", False)


async def test_a_device_that_is_busy_for_long_does_not_fail_the_self_test(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "data", models_dir, upscaler__default_model=FAST)
    async with running(config) as service:
        pool = service._running.pool
        (place,) = pool.all_places
        async with pool.slot(0) as held:
            assert held.place == place
            # No time for the one that waits; the one that works gets 20 s again.
            monkeypatch.setattr(self_test, "_SECONDS", 0.0)
            service.watch_health()
            await until(lambda: pool._requests)
            first = pool._requests[0]
            job = asyncio.create_task(pool._acquire(0, None, small=False), name="job")
            await until(lambda: len(pool._requests) == 2)
            assert (await service.reports.health())["status"] == "starting"
            assert min(pool._requests) is first, "it goes before every job"
            monkeypatch.setattr(self_test, "_SECONDS", 20.0)
        assert await service.health_known() is HealthState.OK
        pool._release(await job)


async def test_a_decoder_that_fails_in_an_unknown_way_does_not_end_the_watch(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm, calls = Imaging.warm, []

    async def broken_once(imaging: Imaging) -> Confinement:
        calls.append(imaging)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return await warm(imaging)

    monkeypatch.setattr(Imaging, "warm", broken_once)
    config = make_config(tmp_path / "data", models_dir, upscaler__default_model=FAST)
    async with running(config) as service:
        service.watch_health()
        assert await service.health_known() is HealthState.OK


# --- what callers see ---------------------------------------------------------------------------


@pytest.mark.parametrize("asked_for", [True, False])
async def test_the_cpu_is_a_fallback_only_where_it_was_not_asked_for(
    tmp_path: Path, models_dir: Path, asked_for: bool
) -> None:
    config = make_config(tmp_path / "data", models_dir, upscaler__gpu_ids="-1" if asked_for else "")
    async with running(config) as service:
        on_cpu = service.choice.devices == (CPU,)
        assert (await service.reports.health())["cpu_fallback"] is (on_cpu and not asked_for)


async def test_without_models_health_is_503_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    server = Server(configured(tmp_path / "data", tmp_path / "models"), self_test=True)
    await asyncio.to_thread(server.start)
    try:
        async with Api(server) as api:
            answer = await api.get("/health")
    finally:
        await asyncio.to_thread(server.stop)
    assert answer.status == 503
    assert answer.json["status"] == "failing"
    assert "upscaled models install" in answer.json["reason"]


async def test_health_answers_while_a_job_uses_every_core(tmp_path: Path, models_dir: Path) -> None:
    config = configured(
        tmp_path / "data", models_dir, upscaler__default_model=FAST, server__drain_seconds="0"
    )
    server = Server(config, self_test=True)
    await asyncio.to_thread(server.start)
    try:
        async with Api(server) as api, asyncio.timeout(60):
            job_id = await api.accepted(a_picture(1000, 800), scale="4")
            until = server.call(until_processing(server.service, job_id))
            await asyncio.wrap_future(until)
            for _ in range(20):
                async with asyncio.timeout(5):
                    answer = await api.get("/health")
                assert (answer.status, answer.json["processing"]) == (200, 1)
            await api.post(f"/cancel/{job_id}")
    finally:
        await asyncio.to_thread(server.stop)


async def test_the_start_does_not_wait_for_the_self_test_and_jobs_may_queue(
    tmp_path: Path, models_dir: Path
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(a_picture())
    config = make_config(tmp_path / "data", models_dir, upscaler__default_model=FAST)
    async with running(config) as service:
        service.watch_health()
        assert (await service.reports.health())["status"] == "starting"
        job = await submit(service, photo)
        assert (await service.jobs.wait(job.id)).state == "completed"
        assert (await service.reports.health())["status"] == "ok"
