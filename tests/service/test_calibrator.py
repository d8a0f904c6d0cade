"""Networks are measured while the service is idle, and jobs run by the chosen methods."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from testkit.logs import until_logged
from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_processing, until_progress
from testkit.waiting import until
from upscaled.batch.local import LocalUpscaler
from upscaled.batch.upscaler import Task
from upscaled.callers import LOCAL
from upscaled.config.settings import Config
from upscaled.engines.builtin.calibration import BusyError, Calibration
from upscaled.engines.builtin.choice import Pace, Table
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.cpu_methods import CpuMethods, key_of, this_machine
from upscaled.files import sha256_of
from upscaled.jobs.job import JobState
from upscaled.service import calibrator

NCNN, F32, BF16 = CpuLibrary.NCNN, CpuLibrary.OPENVINO, CpuLibrary.OPENVINO_BF16


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrator, "QUIET_SECONDS", 0.05)


class Trials:
    """Stands in for the measurements: they wait until they are let go, and favour a library."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models: list[str] = []
        self.stopped = 0
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.best = NCNN
        self.tile = 0

        async def run(calibration: Calibration) -> Table:
            self.models.append(calibration.table.name)
            self.begun.set()
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.stopped += 1
                raise
            return self.table(calibration.table.name)

        monkeypatch.setattr(Calibration, "run", run)

    def table(self, name: str) -> Table:
        sides = ((64, 1.0), (400, 3.0 if self.tile else 1.0))
        paces = (
            Pace(library, 1, 2, side, factor * (1e-6 if library is self.best else 9e-6), 50)
            for library in (NCNN, F32, BF16)
            for side, factor in sides
        )
        return Table(name, tuple(paces), {F32: {"slope": 90.0}, BF16: {"slope": 55.0}})


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    return Trials(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, models_dir: Path) -> Config:
    return make_config(
        tmp_path / "data", models_dir, upscaler__calibrate="true",
        upscaler__default_model="realesr-animevideov3",
    )  # fmt: skip


async def known(config: Config, models: Path, stem: str, table: Table) -> CpuMethods:
    """Write what was measured of a network before."""
    methods = CpuMethods(config.methods_file, await asyncio.to_thread(this_machine, 2, 0))
    await methods.load()
    digests = [
        await asyncio.to_thread(sha256_of, models / f"{stem}.{end}") for end in ("param", "bin")
    ]
    await methods.put(key_of(*digests), table)
    return methods


async def receipt_of(service: Any, picture: Path, **fields: str) -> dict[str, Any]:
    job = await submit(service, picture, **fields)
    done = await service.jobs.wait(job.id)
    assert done.state is JobState.COMPLETED
    engine: dict[str, Any] = done.receipt["engine"]
    return engine


async def a_while() -> None:
    """Let four times as long pass as the service must be idle: nothing may begin in this time."""
    for _ in range(20):
        await asyncio.sleep(0.01)


async def test_an_idle_service_measures_the_default_model_then_what_jobs_used(
    config: Config, trials: Trials, thumbnail: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trials.let_go.set()
    with caplog.at_level(logging.INFO):
        async with running(config) as service:
            await until_logged(caplog, "network measured")
            assert trials.models == ["realesr-animevideov3-x4"]
            engine = await receipt_of(service, thumbnail, scale="2")
            assert not engine["measured"]  # the network for ×2 is another one
            await until(lambda: caplog.text.count("network measured") == 2)
            assert trials.models[1] == "realesr-animevideov3-x2"
            engine = await receipt_of(service, thumbnail, scale="2")
            assert engine["measured"]
            assert engine["library"].startswith("ncnn ")
    kept = json.loads(await asyncio.to_thread(config.methods_file.read_bytes))
    assert len(kept["networks"]) == 2


async def test_a_picture_that_comes_in_stops_the_measurement(
    config: Config, trials: Trials, thumbnail: Path
) -> None:
    async with running(config) as service:
        await trials.begun.wait()
        trials.begun.clear()
        job = await submit(service, thumbnail)
        await until(lambda: trials.stopped == 1)
        assert (await service.jobs.wait(job.id)).state is JobState.COMPLETED
        await trials.begun.wait()  # it begins again when the job is done
        upload = await service.submissions.begin_upload(LOCAL, 100, queues=False)
        await until(lambda: trials.stopped == 2)
        trials.begun.clear()
        await a_while()  # a long upload: nothing is measured beside it
        assert not trials.begun.is_set()
        upload.end()
        await trials.begun.wait()
    assert trials.stopped == 3  # by the end of the service
    assert set(trials.models) == {"realesr-animevideov3-x4"}


async def test_nothing_is_measured_beside_a_long_job(
    config: Config, trials: Trials, tmp_path: Path
) -> None:
    picture = tmp_path / "coffee.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((400, 300)).save(picture)
    async with running(config) as service:
        await trials.begun.wait()
        trials.begun.clear()
        job = await submit(service, picture, model_name="realesrgan-x4plus", scale="4")
        await until_processing(service, job.id)
        await a_while()
        assert not trials.begun.is_set()
        await service.jobs.cancel(job.id)
        await trials.begun.wait()


@pytest.mark.parametrize(
    "settings",
    [
        {"upscaler__calibrate": "false"},
        {"upscaler__cpu_library": "ncnn"},
        {"upscaler__cpu_library": "openvino"},
    ],
)
async def test_a_setting_still_forces_the_library(
    tmp_path: Path,
    models_dir: Path,
    thumbnail: Path,
    trials: Trials,
    settings: dict[str, str],
) -> None:
    config = make_config(tmp_path / "data", models_dir, upscaler__calibrate="true")
    table = trials.table("realesr-animevideov3-x2")
    trials.best = BF16
    await known(config, models_dir, "realesr-animevideov3-x2", table)
    forced = make_config(
        tmp_path / "data", models_dir, **{"upscaler__calibrate": "true", **settings}
    )
    async with running(forced) as service:
        engine = await receipt_of(service, thumbnail)
        await a_while()
    assert not engine["measured"]
    wanted = settings.get("upscaler__cpu_library")
    if wanted is not None:
        assert engine["library"] == await asyncio.to_thread(CpuLibrary(wanted).with_version)
    assert trials.models == []


@pytest.mark.parametrize("best", [NCNN, F32, BF16])
async def test_jobs_run_in_the_way_that_was_measured_best(
    config: Config, models_dir: Path, tmp_path: Path, trials: Trials, best: CpuLibrary
) -> None:
    trials.best, trials.tile = best, 64
    stem = "realesr-animevideov3-x2"
    await known(config, models_dir, stem, trials.table(stem))
    picture = tmp_path / "coffee.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((300, 200)).save(picture)
    async with running(config) as service:
        engine = await receipt_of(service, picture)
    assert engine["measured"]
    assert engine["library"] == await asyncio.to_thread(best.with_version)
    assert engine["tile_size"] <= 64
    assert engine["tiles_at_once"] * engine["threads_per_tile"] == 2


async def test_results_are_cached_by_the_way_they_were_made(
    config: Config, models_dir: Path, thumbnail: Path, trials: Trials
) -> None:
    config = dataclasses.replace(
        config, storage=dataclasses.replace(config.storage, result_cache_mb=50)
    )
    stem = "realesr-animevideov3-x2"
    made: dict[str, list[str]] = {}
    for best in (NCNN, F32, NCNN):
        trials.best = best
        await known(config, models_dir, stem, trials.table(stem))
        async with running(config) as service:
            for _ in range(2):
                job = await submit(service, thumbnail)
                done = await service.jobs.wait(job.id)
                assert done.receipt is not None
                made.setdefault(best, []).append(done.receipt["engine"]["library"])
                await service.jobs.delivered(job.id)
    names = {one: await asyncio.to_thread(one.with_version) for one in (NCNN, F32)}
    assert made == {NCNN: [names[NCNN]] * 4, F32: [names[F32]] * 2}


async def test_a_job_that_was_stopped_goes_on_in_its_own_way(
    config: Config,
    models_dir: Path,
    tmp_path: Path,
    trials: Trials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)  # a band for every row of tiles
    stem, picture = "realesr-animevideov3-x2", tmp_path / "tall.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((64, 640)).save(picture)
    trials.best = NCNN
    await known(config, models_dir, stem, trials.table(stem))
    config = dataclasses.replace(config, server=dataclasses.replace(config.server, drain_seconds=0))
    async with running(config) as service:
        whole = await service.jobs.wait((await submit(service, picture, tile_size="32")).id)
        assert whole.receipt is not None
        job = await submit(service, picture, tile_size="32")
        await until_progress(service, job.id, 40)
    trials.best = F32
    await known(config, models_dir, stem, trials.table(stem))
    names = [await asyncio.to_thread(one.with_version) for one in (NCNN, F32)]
    async with running(config) as service:
        done = await service.jobs.wait(job.id)
        assert done.receipt is not None
        assert "resumed" in done.receipt["seconds"]
        assert done.receipt["engine"]["library"] == names[0]
        assert done.receipt["engine"]["measured"]
        assert done.receipt["output"] == whole.receipt["output"]
        assert (await receipt_of(service, picture))["library"] == names[1]


async def test_a_command_uses_what_the_server_measured_and_measures_nothing(
    config: Config, models_dir: Path, tmp_path: Path, trials: Trials
) -> None:
    work = tmp_path / "work"
    picture = tmp_path / "coffee.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((120, 80)).save(picture)
    stem = "realesr-animevideov3-x2"
    trials.best = F32
    await known(config, models_dir, stem, trials.table(stem))
    fields = {"model_name": "realesr-animevideov3", "scale": "2"}
    async with LocalUpscaler(config, work) as upscaler:
        await upscaler.upscale(Task(picture, tmp_path / "made.png", fields, "key"), print)
        job = await upscaler._service.jobs.get(upscaler._placed[tmp_path / "made.png"])
        await a_while()
    assert job.receipt is not None
    assert job.receipt["engine"]["library"] == await asyncio.to_thread(F32.with_version)
    assert trials.models == []


async def test_on_a_busy_machine_measuring_is_postponed(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calibrator, "BUSY_SECONDS", 0.01)
    tries = 0

    async def run(calibration: Calibration) -> Table:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise BusyError
        paces = (Pace(NCNN, 1, 2, 64, 1e-6, 50),)
        calibration.table = dataclasses.replace(calibration.table, paces=paces, unmeasured=0)
        return calibration.table

    monkeypatch.setattr(Calibration, "run", run)
    with caplog.at_level(logging.INFO):
        async with running(config):
            await until_logged(caplog, "measuring is postponed")
            kept = json.loads(await asyncio.to_thread(config.methods_file.read_bytes))
            (table,) = kept["networks"].values()
            assert table["unmeasured"] > 0
            await until_logged(caplog, "network measured")
    pauses = [r.__dict__["seconds"] for r in caplog.records if "postponed" in r.message]
    assert pauses == [0.01, 0.02, 0.04]
    kept = json.loads(await asyncio.to_thread(config.methods_file.read_bytes))
    (table,) = kept["networks"].values()
    assert table["unmeasured"] == 0


async def test_a_wrong_choice_corrects_itself_as_jobs_are_timed(
    config: Config, models_dir: Path, tmp_path: Path, trials: Trials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("upscaled.timing.estimator._TELLING_SECONDS", 0.0)
    stem, picture = "realesr-animevideov3-x2", tmp_path / "coffee.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((300, 200)).save(picture)
    # As if 32 bits had been measured to take a tenth of a microsecond: no processor does.
    paces = (Pace(F32, 1, 2, 400, 1e-10, 50), Pace(NCNN, 1, 2, 400, 1e-9, 50))
    await known(config, models_dir, stem, Table(stem, paces, {F32: {"slope": 90.0}}))
    config = dataclasses.replace(
        config, upscaler=dataclasses.replace(config.upscaler, default_scale=2)
    )
    trials.best = NCNN
    trials.let_go.set()
    names = {one: await asyncio.to_thread(one.with_version) for one in (NCNN, F32)}
    async with running(config) as service:
        for _ in range(3):
            assert (await receipt_of(service, picture))["library"] == names[F32]
        await until(lambda: stem in trials.models)
        await until(lambda: not service_wants(config))
        assert (await receipt_of(service, picture))["library"] == names[NCNN]


def service_wants(config: Config) -> bool:
    """Tell whether a table on disk is doubted."""
    kept = json.loads(config.methods_file.read_bytes())
    return any(table["doubt"] for table in kept["networks"].values())
