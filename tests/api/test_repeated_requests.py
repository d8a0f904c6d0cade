"""Identical requests from outside: one piece of work, many answers; kills in between."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp

from testkit.contract import Answer
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.server_process import ServerProcess, server_process
from testkit.waiting import until
from upscaled.callers import hash_of

FAST = {"model_name": FAST_MODEL, "scale": "2"}
WANTS_PICTURE = {"Accept": "image/*"}
CACHE = {"storage.result_cache_mb": 50}


async def completed(api: Api, picture: bytes | None = None, **fields: str) -> Answer:
    """Submit a picture and wait for the completed job."""
    answer = await api.upscale(picture or a_picture(), {**FAST, **fields}, query="?wait=45")
    assert answer.status == 200, answer
    return answer


async def test_a_repeated_request_is_answered_from_the_cache(serve: Callable[..., Server]) -> None:
    server = serve(storage__result_cache_mb="10")
    async with Api(server) as api:
        first = (await completed(api)).json
        assert "cached" not in first
        result = await api.get(f"/download/{first['job_id']}")
        again = (await completed(api, client_ref="again")).json
        assert (again["cached"], again["duration_seconds"]) == (True, 0.0)
        assert (again["client_ref"], again["device"]) == ("again", "cpu")
        receipt = (await api.get(f"/receipt/{again['job_id']}")).json
        assert receipt["cached"] is True
        assert receipt["job_id"] == again["job_id"]
        # Its life is its own: it is told, listed, fetched once, and deleted.
        listed = (await api.get("/jobs?client_ref=again")).json["jobs"]
        assert [job["job_id"] for job in listed] == [again["job_id"]]
        fetched = await api.get(f"/download/{again['job_id']}")
        assert fetched.body == result.body
        assert fetched.headers["repr-digest"] == result.headers["repr-digest"]
        assert (await api.get(f"/download/{again['job_id']}")).status == 410
        plain = await api.upscale(a_picture(), FAST)
        assert plain.status == 202
        cancelled = await api.post(f"/cancel/{plain.json['job_id']}")
        assert (cancelled.status, cancelled.json["code"]) == (409, "wrong_state")
        picture = await api.upscale(a_picture(), FAST, query="?wait=9", headers=WANTS_PICTURE)
        assert (picture.status, picture.body) == (200, result.body)


async def test_owners_do_not_see_each_others_results(serve: Callable[..., Server]) -> None:
    tokens = f"mine={hash_of('m')},yours={hash_of('y')}"
    shared = serve(server__tokens=tokens, storage__result_cache_mb="10")
    async with Api(shared, "m") as mine, Api(shared, "y") as yours:
        assert "cached" not in (await completed(mine)).json
        assert "cached" not in (await completed(yours)).json
        assert (await completed(yours)).json["cached"] is True


async def test_events_of_a_joined_job_tell_the_progress_of_the_work(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    picture, fields = a_picture(300, 300), {"model_name": FAST_MODEL, "scale": "4"}
    async with Api(server) as api:
        first = (await api.upscale(picture, fields)).json["job_id"]
        joined = (await api.upscale(picture, fields)).json["job_id"]
        told = (await api.get(f"/events/{joined}")).body.decode()
        assert '"status":"processing"' in told
        assert '"stage":"upscaling"' in told
        assert '"shared":true' in told
        assert (await api.get(f"/status/{first}")).json["status"] == "completed"


async def pictures(server: ServerProcess, count: int) -> list[tuple[int, bytes]]:
    """Request one picture ``count`` times at once; return statuses and bodies."""
    query = f"model_name={FAST_MODEL}&scale=4&wait=45"

    async def one(session: aiohttp.ClientSession) -> tuple[int, bytes]:
        async with session.post(
            f"{server.url}/upscale?{query}",
            data=a_picture(200, 200),
            headers={"Content-Type": "image/png", **WANTS_PICTURE},
        ) as answer:
            return answer.status, await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*(one(session) for _ in range(count)))


async def test_fifty_at_once_are_one_piece_of_work_also_after_a_kill(
    tmp_path: Path, models_dir: Path
) -> None:
    async with server_process(tmp_path, models_dir, CACHE) as server:
        answers = await pictures(server, 50)
        assert {status for status, _ in answers} == {200}
        assert len({body for _, body in answers}) == 1
        assert sum(server.completions().values()) == 1
        await server.end(signal.SIGKILL)
        await server.start()
        await server.wait_until_ready()
        assert (await pictures(server, 1)) == answers[:1]
        assert sum(server.completions().values()) == 1


async def test_every_joined_job_is_completed_after_a_kill(tmp_path: Path, models_dir: Path) -> None:
    slow = f"?model_name={FAST_MODEL}&scale=4&tta=true"
    async with server_process(tmp_path, models_dir) as server, aiohttp.ClientSession() as session:

        async def submit() -> str:
            async with session.post(
                server.url + "/upscale" + slow,
                data=a_picture(200, 200),
                headers={"Content-Type": "image/png"},
            ) as answer:
                return str((await answer.json())["job_id"])

        jobs = await asyncio.gather(*(submit() for _ in range(10)))
        await until(lambda: any(job["state"] == "processing" for job in server.jobs()))
        await server.end(signal.SIGKILL)
        await server.start()
        await server.wait_until_ready()
        bodies = set()
        for job_id in jobs:
            async with session.get(f"{server.url}/download/{job_id}?wait=45") as answer:
                assert answer.status == 200
                bodies.add(await answer.read())
        assert len(bodies) == 1
        assert sum(server.completions().values()) == 1
