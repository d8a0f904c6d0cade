import asyncio
from pathlib import Path

from testkit.engines import IdleEngine
from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_processing
from upscaled.engines.engine import Device, DeviceKind
from upscaled.engines.pool import EnginePool, Place
from upscaled.jobs.job import JobState


async def test_jobs_run_on_two_slots_at_once(tmp_path: Path, models_dir: Path) -> None:
    config = make_config(
        tmp_path / "data",
        models_dir,
        limits__max_concurrent_jobs="2",
        upscaler__gpu_ids="-1",
        features__join_identical="false",
    )
    async with running(config) as service:
        slow = {"model_name": "realesrgan-x4plus", "scale": "4"}
        jobs = [await submit(service, DATA / "coffee.jpg", **slow) for _ in range(3)]
        for job in jobs[:2]:
            await until_processing(service, job.id)
        states = [(await service.jobs.get(job.id)).state for job in jobs]
        assert states == [JobState.PROCESSING, JobState.PROCESSING, JobState.QUEUED]
        outlook = service.jobs.outlook(jobs[2].id)
        assert outlook is not None
        assert outlook.position == 1
        await service.jobs.cancel(jobs[0].id)
        await until_processing(service, jobs[2].id)
        for job in jobs[1:]:
            await service.jobs.cancel(job.id)


async def test_all_devices_are_used_before_anybody_waits_best_first() -> None:
    gpus = [Place("builtin", Device(n, f"GPU {n}", DeviceKind.DISCRETE)) for n in range(3)]
    pool = EnginePool([(gpu, 1, IdleEngine) for gpu in gpus])
    leave = asyncio.Event()
    used: asyncio.Queue[Place] = asyncio.Queue()

    async def work(rank: int) -> None:
        async with pool.slot(rank) as slot:
            used.put_nowait(slot.place)
            await leave.wait()

    tasks = [asyncio.create_task(work(rank)) for rank in range(4)]
    assert [await used.get() for _ in range(3)] == gpus
    leave.set()
    await asyncio.gather(*tasks)
    assert used.qsize() == 1
