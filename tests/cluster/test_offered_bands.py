"""Offers and claims of bands in the database, by roles that may do nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from testkit.jobs import make_job
from testkit.postgres import PostgresServer
from upscaled.cluster import grants, offered_bands, work_queue
from upscaled.cluster.offered_bands import BandRecipe, Claim, Offer
from upscaled.cluster.records import SharedJobStore
from upscaled.cluster.work_queue import Lease
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.webhooks.events import messages_of

LEASE = 30.0
KEY = "this CPU"
OFFERS = [
    Offer((top, top + 64), BandRecipe("work", f"{top:064x}", tile_size=32)) for top in (64, 128)
]


@dataclass
class Scene:
    """A job, the worker that has it, and two others."""

    server: Database
    worker: Database
    store: SharedJobStore
    job: Job
    lease: Lease
    owner: int
    others: tuple[int, int]

    async def offer(self, number: int | None = None, offers: list[Offer] = OFFERS) -> bool:
        lease = self.lease.number if number is None else number
        model = self.job.request.model_name
        return await self.worker.run(
            lambda c: offered_bands.offer(c, self.job.id, lease, KEY, model, offers)
        )

    async def claim(
        self, other: int = 0, *, key: str = KEY, model: str = "", without: tuple[str, ...] = ()
    ) -> Claim | None:
        models = [model or self.job.request.model_name]
        return await self.worker.run(
            lambda c: offered_bands.claim(
                c, self.others[other], key, models, without=without, lease_seconds=LEASE
            )
        )

    async def complete(self, claim: Claim, sha256: str = "a" * 64) -> bool:
        return await self.worker.run(lambda c: offered_bands.complete(c, claim, sha256, 1.5))

    async def withdraw(self, *tops: int, done: bool = False) -> set[int]:
        return await self.worker.run(
            lambda c: offered_bands.withdraw(c, self.job.id, self.lease.number, tops, done=done)
        )

    async def states(self) -> dict[tuple[int, int], offered_bands.OfferState]:
        return await self.worker.run(
            lambda c: offered_bands.states(c, self.job.id, self.lease.number, LEASE)
        )


@pytest.fixture
async def scene(postgres: PostgresServer) -> AsyncIterator[Scene]:
    for role in ("api", "work"):
        postgres.execute(f"DROP ROLE IF EXISTS {role}")
        postgres.execute(f"CREATE ROLE {role} LOGIN")
    with postgres.database() as url:
        databases = {
            role: Database(url.replace("//upscaled@", f"//{role}@"))
            for role in ("upscaled", "api", "work")
        }
        for database in databases.values():
            await database.open()
        rights = {"api": grants.SERVER, "work": grants.WORKER}
        await databases["upscaled"].run(lambda c: grants.grant(c, rights))
        server, worker = databases["api"], databases["work"]
        store = SharedJobStore(server, messages_of, fair=True)
        job = make_job()
        await store.put(job)
        owner, *others = [await worker.run(work_queue.register) for _ in range(3)]
        lease = await worker.run(lambda c: work_queue.take(c, owner, [job.request.model_name]))
        assert lease is not None
        yield Scene(server, worker, store, job, lease, owner, (others[0], others[1]))
        for database in databases.values():
            await database.close()
    for role in ("api", "work"):
        postgres.execute(f"DROP ROLE {role}")


async def test_each_band_goes_to_one_worker_and_none_waits_for_another(scene: Scene) -> None:
    assert await scene.offer()
    taken, done = asyncio.Event(), asyncio.Event()

    async def hold() -> Claim | None:
        async def claim(connection: Connection) -> Claim | None:
            found = await offered_bands.claim(
                connection, scene.others[0], KEY, [scene.job.request.model_name],
                without=(), lease_seconds=LEASE,
            )  # fmt: skip
            taken.set()
            await done.wait()
            return found

        return await scene.worker.run(claim)

    holding = asyncio.create_task(hold())
    await taken.wait()
    second = await scene.claim(1)
    done.set()
    first = await holding
    assert first is not None and second is not None
    assert (first.rows, second.rows) == ((64, 128), (128, 192))
    assert (first.job.id, first.recipe) == (scene.job.id, OFFERS[0].recipe)
    assert await scene.claim(0) is None
    mine = await scene.worker.run(lambda c: offered_bands.claims_of(c, scene.others[0]))
    assert mine == {first.key}


async def test_a_band_is_for_workers_that_make_its_bytes_while_its_owner_is_alive(
    scene: Scene, postgres: PostgresServer
) -> None:
    assert await scene.offer()
    assert await scene.claim(key="another CPU") is None
    assert await scene.claim(model="another model") is None
    assert await scene.claim(without=(scene.job.id,)) is None
    await scene.worker.run(
        lambda c: c.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '31 s' "
            "WHERE id = %s", (scene.owner,),
        )
    )  # fmt: skip
    assert await scene.claim() is None
    await scene.worker.run(lambda c: work_queue.renew(c, scene.owner))
    assert await scene.claim() is not None


async def test_what_is_done_or_released_or_lost_is_told(scene: Scene) -> None:
    await scene.offer()
    first, second = await scene.claim(0), await scene.claim(1)
    assert first is not None and second is not None
    assert await scene.complete(first)
    assert await scene.complete(first)  # the transaction is repeated
    assert not await scene.complete(first, "b" * 64)
    await scene.worker.run(
        lambda c: c.execute("DELETE FROM procrastinate_workers WHERE id = %s", (second.worker,))
    )
    told = await scene.states()
    assert told[first.rows] == offered_bands.OfferState(first.worker, "a" * 64, 1.5, lost=False)
    assert told[second.rows].lost
    await scene.worker.run(lambda c: offered_bands.release(c, second.worker, second.key))
    await scene.worker.run(lambda c: offered_bands.release(c, first.worker, first.key))
    told = await scene.states()
    assert told[second.rows] == offered_bands.OfferState(None, None, 0.0, lost=False)
    assert told[first.rows].sha256 is not None


async def test_what_comes_after_an_offer_was_withdrawn_does_not_count(scene: Scene) -> None:
    await scene.offer()
    first = await scene.claim(0)
    assert first is not None
    assert await scene.withdraw(64, 128) == {64, 128}
    assert not await scene.complete(first)
    await scene.offer(offers=OFFERS[:1])
    assert not await scene.complete(first)
    again = await scene.claim(1)
    assert again is not None
    assert not await scene.complete(first)
    assert await scene.complete(again)
    assert await scene.withdraw(64) == set()
    assert await scene.withdraw(64, done=True) == {64}
    assert await scene.states() == {}


@pytest.mark.parametrize("end", ["lease", "cancelled", "deleted"])
async def test_offers_end_with_their_lease_and_their_job(scene: Scene, end: str) -> None:
    await scene.offer()
    claim = await scene.claim()
    assert claim is not None
    if end == "lease":
        number = scene.lease.number
        await scene.worker.run(lambda c: work_queue.end_lease(c, scene.job.id, number))
    elif end == "cancelled":
        await scene.store.put(scene.job.to(JobState.CANCELLED, finished=1.0))
    else:
        await scene.store.delete(scene.job.id)
    assert await scene.states() == {}
    assert not await scene.complete(claim)
    assert not await scene.offer()
    assert await scene.claim() is None


async def test_a_lease_that_has_ended_offers_nothing(scene: Scene) -> None:
    assert not await scene.offer(scene.lease.number - 1)
    assert await scene.states() == {}
