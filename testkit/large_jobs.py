"""Jobs of several bands in a cluster: their pictures, and what blobs and database have of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from testkit.cluster import Cluster, MemberProcess, result_digest, submitted
from testkit.photos import resized
from testkit.services import FAST, make_config, running, submit
from testkit.waiting import until

API = "/api/v1"
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 2,
    "server.drain_seconds": 0,
    "features.web": False,
}
PNG = {"scale": "4", "format": "png", "tile_size": "220"}
"""Fields of a job of three bands of `tall_photo`: of 660 rows, which are more than 24 MiB when
enlarged."""
_SIZE = (800, 2000)


def tall_photo() -> bytes:
    """Return a photo that is done in several bands."""
    return resized(*_SIZE, "JPEG")


async def alone(folder: Path, models_dir: Path, picture: bytes, **fields: str) -> str:
    """Return the digest of the result that a service on one machine makes."""
    path = folder / "tall.jpg"
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread(path.write_bytes, picture)
    async with running(make_config(folder / "alone", models_dir)) as service:
        job = await submit(service, path, **fields)
        await service.jobs.wait(job.id)
        return (await service.jobs.result(job.id)).sha256


class LargeJob:
    """A job of the cluster, and what blobs and database have of it."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession, job_id: str) -> None:
        self.id = job_id
        self._api = cluster.servers[0].url + API
        self._database = cluster.postgres.url()
        self._session = session
        self.bands = cluster.blobs / "bands" / job_id

    @classmethod
    async def submit(
        cls, cluster: Cluster, session: aiohttp.ClientSession, picture: bytes, **fields: str
    ) -> LargeJob:
        api = cluster.servers[0].url + API
        return cls(cluster, session, await submitted(session, api, picture, **fields))

    async def kept(self, after: int = 0) -> int:
        """Wait until a record of a lease after ``after`` is stored; return the lease's number."""

        def newest() -> int:
            records = [path.name for path in self.bands.glob("checkpoint-*")]
            numbers = [int(name.partition("-")[2]) for name in records]
            return max((number for number in numbers if number > after), default=0)

        return await until(newest, 120)

    async def completed(self) -> Any:
        """Wait for its end; return its receipt."""
        state = ""
        async with asyncio.timeout(240):  # the whole picture, on a busy machine
            while state != "completed":
                async with self._session.get(f"{self._api}/status/{self.id}?wait=20") as answer:
                    state = (await answer.json())["status"]
                assert state not in {"failed", "cancelled"}
        async with self._session.get(f"{self._api}/receipt/{self.id}") as answer:
            return await answer.json()

    async def digest(self) -> str:
        return await result_digest(self._session, self._api, self.id)

    async def cancel(self) -> None:
        async with self._session.post(f"{self._api}/cancel/{self.id}") as answer:
            assert answer.status == 200

    async def are_gone(self) -> None:
        """Wait until its bands are deleted."""
        await until(lambda: not self.bands.exists())

    async def owner(self) -> str:
        """Return the name of the worker that took it last."""
        found = await self._ask(
            "SELECT members.id FROM members JOIN jobs USING (worker) WHERE jobs.id = %s"
        )
        return str(found[0][0])

    async def helper(self) -> str:
        """Wait until another worker does a band of it; return that worker's name."""
        async with asyncio.timeout(120):
            while True:
                found = await self._ask(
                    "SELECT members.id FROM members JOIN offered_bands USING (worker) "
                    "WHERE job_id = %s AND sha256 IS NULL"
                )
                if found:
                    return str(found[0][0])
                await asyncio.sleep(0.02)  # nothing tells when a band is claimed

    async def offers(self) -> int:
        """Return how many of its bands others may do, do or have done."""
        return len(await self._ask("SELECT top FROM offered_bands WHERE job_id = %s"))

    async def _ask(self, query: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(self._database) as connection:
            cursor = await connection.execute(query.encode(), (self.id,))
            return await cursor.fetchall()


def worker(cluster: Cluster, folder: Path, name: str) -> MemberProcess:
    """Return a worker of the cluster, to be started."""
    return MemberProcess(folder / name, "work", cluster.settings)
