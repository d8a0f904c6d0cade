"""A worker on a machine of its own, as far as its network goes, whose line is cut."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from testkit import network_namespace
from testkit.cluster import (
    Cluster,
    MemberProcess,
    result_digest,
    running_cluster,
    submitted,
    until_state,
)
from testkit.network_namespace import network_namespaces
from testkit.photos import resized
from testkit.postgres import PostgresServer
from testkit.services import FAST

API = "/api/v1"
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "server.drain_seconds": 5,
}


async def test_a_worker_whose_network_was_cut_for_longer_than_its_lease_changes_no_result(
    tmp_path: Path, models_dir: Path
) -> None:
    if not await asyncio.to_thread(network_namespace.possible):
        pytest.skip("networks of one's own take root and the right to make them")
    with network_namespaces(1) as (network,):
        postgres = PostgresServer(addresses=[network.host])
        made = Cluster(tmp_path, models_dir, servers=1, workers=0, settings=SETTINGS,
                       postgres=postgres)  # fmt: skip
        async with running_cluster(made) as cluster:
            url = cluster.servers[0].url + API
            photo = resized(480, 360)  # so that the job runs when its worker is cut off
            through = {"cluster.database_url": postgres.url(host=network.host)}
            late = MemberProcess(
                tmp_path / "late", "work", cluster.settings | through, network=network
            )
            other = MemberProcess(tmp_path / "other", "work", cluster.settings)
            try:
                await late.start()
                async with aiohttp.ClientSession() as session:
                    job_id = await submitted(session, url, photo)
                    await until_state(session, url, job_id, "processing")
                    await asyncio.to_thread(network.cut)
                    await other.start()
                    ended = await until_state(session, url, job_id, "completed")
                    result = await result_digest(session, url, job_id)
                    await asyncio.to_thread(network.heal)
                    await late.said("job was taken from this worker")
                    assert await until_state(session, url, job_id, "completed") == ended
                    assert await result_digest(session, url, job_id) == result
                    await other.stop()
                    again = await submitted(session, url, photo)  # the late one works again
                    await until_state(session, url, again, "completed")
                    assert await result_digest(session, url, again) == result
            finally:
                await asyncio.gather(late.kill(), other.stop())
