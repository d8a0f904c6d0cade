import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from upscaled.engines.builtin.choice import Pace, Table
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.cpu_methods import CpuMethods, this_machine
from upscaled.engines.engine import CPU, Device, DeviceKind, ModelFiles
from upscaled.engines.pool import Place
from upscaled.errors import StoreUnavailableError, UnknownModelError
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.pictures import Size
from upscaled.timing.estimator import Estimator, Work

BUILTIN = Place("builtin", CPU)
BINARY = Place("binary", Device(0, "GPU", DeviceKind.DISCRETE))


class KeptNowhere:
    async def load_rates(self) -> Mapping[str, str]:
        return {"upscale builtin cpu CPU net ncnn": "not JSON", "load": "[1]"}

    async def save_rates(self, rates: Mapping[str, str]) -> None:
        raise AssertionError(f"nothing was measured: {rates}")


class KeptByAll:
    """Rates that several services share; while ``away``, they can't be written."""

    def __init__(self) -> None:
        self.rates: dict[str, str] = {}
        self.away = False

    async def load_rates(self) -> Mapping[str, str]:
        return dict(self.rates)

    async def save_rates(self, rates: Mapping[str, str]) -> None:
        if self.away:
            raise StoreUnavailableError("away")
        self.rates |= rates


def a_model(folder: Path, size: int = 1_000_000) -> ModelFiles:
    weights = folder / "net.bin"
    weights.write_bytes(bytes(size))
    return ModelFiles(folder / "net.param", weights, 2, "data", "output", 20_000)


def work(model: ModelFiles, side: int, **changes: object) -> Work:
    values = {
        "model": model,
        "source": Size(side, side),
        "output": Size(2 * side, 2 * side),
        "input_format": "png",
        "format": "png",
    }
    return Work(**{**values, **changes})  # type: ignore[arg-type]


async def an_estimator(model: ModelFiles, place: Place = BUILTIN) -> Estimator:
    estimator = Estimator(place, cores=2, engine_memory=1 << 30, store=KeptNowhere())
    await estimator.load()
    await estimator.meet(work(model, 512))
    return estimator


async def test_before_anything_was_measured_larger_networks_and_pictures_count_for_more(
    tmp_path: Path,
) -> None:
    model = a_model(tmp_path)
    estimator = await an_estimator(model)
    small, large = estimator.estimate(work(model, 64)), estimator.estimate(work(model, 640))
    assert not small.measured
    assert small.upscale < large.upscale
    assert small.total < large.total
    assert estimator.estimate(work(model, 64, tta=True)).upscale > 3 * small.upscale
    await estimator.save()


async def test_what_was_measured_of_a_network_while_idle_takes_the_place_of_the_guess(
    tmp_path: Path,
) -> None:
    model = a_model(tmp_path)
    methods = CpuMethods(None, await asyncio.to_thread(this_machine, 2, 0))
    estimator = Estimator(
        BUILTIN, cores=2, engine_memory=1 << 30, store=KeptNowhere(), methods=methods
    )
    await estimator.meet(work(model, 512))
    methods.meet(model, "key")
    guessed = estimator.estimate(work(model, 512, tile_size=256))
    assert not guessed.measured
    slow = Pace(CpuLibrary.NCNN, 2, 1, 200, 9e-6, 100)
    quick = Pace(CpuLibrary.NCNN, 2, 1, 400, 1e-6, 100)
    await methods.put("key", Table("net", (slow, quick)))
    told = estimator.estimate(work(model, 512, tile_size=256))
    assert told.measured
    assert told.upscale == pytest.approx(0.02 + 1e-6 * (512 + 2 * 20) ** 2, rel=0.01)
    on_gpu = Estimator(BINARY, cores=2, engine_memory=1 << 30, store=KeptNowhere(), methods=methods)
    await on_gpu.meet(work(model, 512))
    assert not on_gpu.estimate(work(model, 512)).measured


async def test_padding_counts(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    estimator = await an_estimator(model)
    fine = estimator.estimate(work(model, 512, tile_size=32)).upscale
    coarse = estimator.estimate(work(model, 512, tile_size=256)).upscale
    fixed = 0.02
    assert (fine - fixed) / (coarse - fixed) == pytest.approx((52 / 32) ** 2 / (276 / 256) ** 2)


async def test_the_memory_foreseen_is_that_of_the_network_and_of_the_tiles_in_work(
    tmp_path: Path,
) -> None:
    model = a_model(tmp_path)
    estimator = await an_estimator(model)
    weights = 9_000_000
    two_tiles = estimator.inference_bytes(work(model, 512, tile_size=32))
    assert two_tiles == weights + 2 * 20_000 * 52**2
    # The native program chooses its own tile size.
    native = await an_estimator(model, BINARY)
    assert native.inference_bytes(work(model, 512)) == 20_000 * 220**2


async def test_what_does_not_fit_is_foreseen_as_the_least_there_is(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    estimator = Estimator(BUILTIN, cores=2, engine_memory=64 << 20, store=KeptNowhere())
    await estimator.meet(work(model, 512))
    assert estimator.inference_bytes(work(model, 512)) == 20_000 * 52**2


async def test_what_jobs_took_is_what_the_next_are_told(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    estimator = await an_estimator(model)
    for side in (64, 128, 256, 512, 200):
        seconds = {"prepare": 0.1, "upscale": 1.0 + side * side * 1e-4, "finish": 0.2}
        estimator.observe(work(model, side), BUILTIN, seconds, 0)
    told = estimator.estimate(work(model, 300))
    assert told.measured
    assert told.upscale == pytest.approx(10.0, rel=0.15)
    # Another device learns for itself.
    assert not (await an_estimator(model, BINARY)).estimate(work(model, 300)).measured


async def test_what_one_library_took_is_nothing_to_another(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()

    async def learned_with(library: CpuLibrary) -> Estimator:
        estimator = Estimator(BUILTIN, 2, 1 << 30, store, library=library)
        await estimator.load()
        await estimator.meet(work(model, 200))
        return estimator

    slow = await learned_with(CpuLibrary.OPENVINO)
    for _ in range(5):
        slow.observe(work(model, 200), BUILTIN, {"upscale": 3.0}, 0)
    await slow.save()
    quick = await learned_with(CpuLibrary.OPENVINO_BF16)
    assert not quick.estimate(work(model, 200)).measured
    again = await learned_with(CpuLibrary.OPENVINO)
    assert again.estimate(work(model, 200)).upscale == pytest.approx(3.0)
    await store.close()


async def test_rates_outlive_a_restart_and_the_first_job_after_it_teaches_the_loading(
    tmp_path: Path,
) -> None:
    model = a_model(tmp_path)
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    before = Estimator(BUILTIN, 2, 1 << 30, store)
    await before.meet(work(model, 200))
    for _ in range(5):
        before.observe(work(model, 200), BUILTIN, {"upscale": 3.0}, 0)
    await before.save()
    again = Estimator(BUILTIN, 2, 1 << 30, store)
    await again.load()
    await again.meet(work(model, 200))
    assert again.estimate(work(model, 200)).upscale == pytest.approx(3.0)
    again.observe(work(model, 200), BUILTIN, {"upscale": 5.0}, 0)
    assert again.estimate(work(model, 200)).upscale == pytest.approx(3.0)
    assert again.estimate(work(model, 200)).load == pytest.approx(2.0)
    await store.close()


async def test_the_native_program_loads_its_model_for_every_job(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    estimator = await an_estimator(model, BINARY)
    told = estimator.estimate(work(model, 64))
    assert told.load == 0
    assert told.upscale > 1


async def test_a_model_whose_file_is_gone_is_unknown(tmp_path: Path) -> None:
    model = a_model(tmp_path)
    model.bin.unlink()
    with pytest.raises(UnknownModelError, match=r"net\.bin can't be read"):
        await an_estimator(model)


async def test_small_pictures_are_foreseen_as_they_are_done_beside_each_other(
    tmp_path: Path,
) -> None:
    model = a_model(tmp_path)
    estimator = Estimator(BUILTIN, 8, 8 << 30, KeptNowhere(), shares=8)
    await estimator.meet(work(model, 128))
    one_tile = 20_000 * 148**2
    assert estimator.inference_bytes(work(model, 128)) == 9_000_000 + one_tile


async def test_what_one_service_measured_another_knows_once_the_records_are_back(
    tmp_path: Path,
) -> None:
    model, kept = a_model(tmp_path), KeptByAll()
    here = Estimator(BUILTIN, cores=2, engine_memory=1 << 30, store=kept)
    there = Estimator(BUILTIN, cores=2, engine_memory=1 << 30, store=kept)
    done = work(model, 512)
    for estimator in (here, there):
        await estimator.load()
        await estimator.meet(done)
    assert not there.estimate(done).measured
    here.observe(done, BUILTIN, {"upscale": 7.0, "finish": 0.1}, 0)
    kept.away = True
    await here.save()
    kept.away = False
    await here.save()
    await there.load()
    assert there.estimate(done).measured
    assert there.estimate(done).upscale == here.estimate(done).upscale
