"""A worker that was cut off for longer than its lease: one result, and it works on afterwards."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from testkit.cluster import (
    Cluster,
    MemberProcess,
    healthy,
    result_digest,
    running_cluster,
    submitted,
    until_state,
)
from testkit.cuttable_link import CuttableLink
from testkit.photos import resized
from testkit.services import FAST

API = "/api/v1"
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 1,  # one loss is not the picture's fault
    "server.drain_seconds": 5,
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> AsyncIterator[Cluster]:
    """A cluster with one API server and no worker."""
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, models_dir, servers=1, workers=0, settings=SETTINGS)
    async with running_cluster(made) as cluster:
        yield cluster


@pytest.mark.parametrize("how", ["stopped", "cut off"])
async def test_a_worker_that_comes_back_after_its_lease_changes_no_result(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    relay = CuttableLink(cluster.postgres.port)
    await relay.start()
    through = cluster.postgres.url().replace(f":{cluster.postgres.port}/", f":{relay.port}/")
    settings = cluster.settings | {"cluster.database_url": through}
    late = MemberProcess(tmp_path / "late", "work", settings)
    other = MemberProcess(tmp_path / "other", "work", cluster.settings)
    url = cluster.servers[0].url + API
    photo = resized(480, 360)  # so that the job runs when its worker is cut off
    try:
        await late.start()
        await healthy(cluster.servers[0].url, 1)
        async with aiohttp.ClientSession() as session:
            job_id = await submitted(session, url, photo)
            await until_state(session, url, job_id, "processing")
            assert late.process is not None
            if how == "stopped":
                late.process.send_signal(signal.SIGSTOP)
            else:
                relay.cut()
            await other.start()
            ended = await until_state(session, url, job_id, "completed")
            result = await result_digest(session, url, job_id)
            if how == "stopped":
                late.process.send_signal(signal.SIGCONT)
            else:
                relay.heal()
            await late.said("job was taken from this worker")
            assert await until_state(session, url, job_id, "completed") == ended
            assert await result_digest(session, url, job_id) == result
            await other.stop()
            again = await submitted(session, url, photo)  # the late one is a worker again
            await until_state(session, url, again, "completed")
            assert await result_digest(session, url, again) == result
    finally:
        relay.heal()
        await asyncio.gather(late.kill(), other.stop())
        await relay.close()


async def test_a_name_that_a_running_process_has_is_refused_and_a_dead_ones_is_not(
    cluster: Cluster, tmp_path: Path
) -> None:
    first = MemberProcess(tmp_path / "twin", "work", cluster.settings)
    second = MemberProcess(tmp_path / "beside" / "twin", "work", cluster.settings)
    try:
        await first.start()
        with pytest.raises(RuntimeError, match=r"cluster\.name is twin here and on"):
            await second.start()
        assert second.process is not None
        assert await second.process.wait() == 2
        await first.kill()
        await second.start()
    finally:
        await asyncio.gather(first.kill(), second.stop())
