"""Downloads through a proxy: what it received can still be lost on the way to its caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.running import Api, Server, configured

PROXIED = {"X-Forwarded-For": "203.0.113.7"}


async def until_gone(server: Server, job_id: str) -> str:
    """Wait until a job's result is deleted; return why."""
    async with asyncio.timeout(60), server.service.jobs.subscribe_all() as updates:
        async for update in updates:
            if update.job.id == job_id and update.job.result_gone:
                return update.job.result_gone
    raise AssertionError("the stream of updates ended")


@pytest.mark.parametrize(
    "headers", [PROXIED, {"Via": "1.1 varnish"}, {"Forwarded": "for=203.0.113.7"}]
)
async def test_after_a_proxy_has_it_all_it_can_be_continued_and_repeated(
    api: Api, server: Server, headers: dict[str, str]
) -> None:
    job_id = await api.completed()
    whole = await api.get(f"/download/{job_id}", headers=headers)
    assert whole.status == 200
    assert whole.headers["x-accel-buffering"] == "no"
    rest = await api.get(f"/download/{job_id}", headers={**headers, "Range": "bytes=10-"})
    assert rest.status == 206 and rest.body == whole.body[10:]
    status = await api.get(f"/status/{job_id}")
    assert status.json["status"] == "completed" and "download_url" in status.json
    assert 14 * 60 < status.json["expires"] - time.time() <= 15 * 60
    assert (await api.get(f"/download/{job_id}", headers=headers)).body == whole.body
    assert server.result_file(job_id).exists()


async def test_a_direct_download_deletes_at_once_even_in_the_grace_period(
    api: Api, server: Server
) -> None:
    job_id = await api.completed()
    assert (await api.get(f"/download/{job_id}", headers=PROXIED)).status == 200
    assert (await api.get(f"/download/{job_id}")).status == 200
    gone = await api.get(f"/download/{job_id}")
    assert (gone.status, gone.json["code"]) == (410, "already_downloaded")
    assert not server.result_file(job_id).exists()


async def test_a_part_that_went_through_a_proxy_makes_the_whole_careful(
    api: Api, server: Server
) -> None:
    job_id = await api.completed()
    first = await api.get(f"/download/{job_id}", headers={**PROXIED, "Range": "bytes=0-9"})
    rest = await api.get(f"/download/{job_id}", headers={"Range": "bytes=10-"})
    again = await api.get(f"/download/{job_id}", headers=PROXIED)
    assert again.body == first.body + rest.body


async def test_http_1_0_counts_as_a_proxy(api: Api, server: Server) -> None:
    job_id = await api.completed()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET /api/v1/download/{job_id} HTTP/1.0\r\n\r\n".encode())
    assert b" 200 OK" in await reader.read()
    writer.close()
    await writer.wait_closed()
    assert (await api.get(f"/download/{job_id}")).status == 200


async def test_keep_leaves_the_deletion_to_the_caller(api: Api, server: Server) -> None:
    job_id = await api.completed()
    for _ in range(2):
        assert (await api.get(f"/download/{job_id}?keep=true")).status == 200
    assert (await api.call("DELETE", f"/jobs/{job_id}")).status == 204
    assert (await api.get(f"/download/{job_id}?keep=true")).status == 404
    assert not server.result_file(job_id).exists()
    refused = await api.get(f"/download/{job_id}?keep=perhaps")
    assert refused.status == 400 and "it must be true or false" in refused.json["error"]


async def test_without_grace_a_proxy_is_like_anybody(serve: Callable[..., Server]) -> None:
    strict = serve(storage__grace_minutes="0")
    async with Api(strict) as api:
        job_id = await api.completed()
        assert (await api.get(f"/download/{job_id}", headers=PROXIED)).status == 200
        assert (await api.get(f"/download/{job_id}", headers=PROXIED)).status == 410


async def test_the_grace_period_ends_and_says_downloaded(serve: Callable[..., Server]) -> None:
    brief = serve(storage__grace_minutes="0.005")
    async with Api(brief) as api:
        job_id = await api.completed()
        gone = brief.call(until_gone(brief, job_id))
        assert (await api.get(f"/download/{job_id}", headers=PROXIED)).status == 200
        assert await asyncio.wrap_future(gone) == "downloaded"
        answer = await api.get(f"/download/{job_id}", headers=PROXIED)
        assert (answer.status, answer.json["code"]) == (410, "already_downloaded")


async def test_a_restart_continues_the_grace_period(
    serve: Callable[..., Server], models_dir: Path
) -> None:
    first = serve()
    async with Api(first) as api:
        fresh, old = await api.completed(), await api.completed()
        for job_id in (fresh, old):
            assert (await api.get(f"/download/{job_id}", headers=PROXIED)).status == 200
        await asyncio.to_thread(first.stop_serving)

    second = Server(first.config)
    await asyncio.to_thread(second.start)
    try:
        async with Api(second) as api:
            assert (await api.get(f"/download/{fresh}", headers=PROXIED)).status == 200
    finally:
        await asyncio.to_thread(second.stop)

    third = Server(configured(first.data_dir, models_dir, storage__grace_minutes="0.0001"))
    await asyncio.to_thread(third.start)
    try:
        await asyncio.wrap_future(third.call(third.service._cleaner.clean(time.time())))
        async with Api(third) as api:
            answer = await api.get(f"/download/{old}", headers=PROXIED)
            assert (answer.status, answer.json["code"]) == (410, "already_downloaded")
        assert not third.result_file(old).exists()
    finally:
        await asyncio.to_thread(third.stop)
