"""The header Idempotency-Key: a submission that is sent again gets the first one's job."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from testkit.contract import Answer
from testkit.curl import curl
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.server_process import server_process
from testkit.waiting import SLOW, until
from upscaled.callers import hash_of

FAST = {"model_name": FAST_MODEL, "scale": "2"}
QUERY = f"?model_name={FAST_MODEL}&scale=2"
RAW = {"Content-Type": "image/png"}


async def sent(api: Api, key: str, picture: bytes | None = None, **fields: str) -> Answer:
    """Submit a picture with a key."""
    headers = {"Idempotency-Key": key}
    return await api.upscale(picture or a_picture(), {**FAST, **fields}, headers=headers)


async def jobs_of(api: Api, ref: str) -> list[str]:
    """Return the ids of the jobs with a label."""
    listed = (await api.get(f"/jobs?client_ref={ref}")).json["jobs"]
    return [job["job_id"] for job in listed]


async def test_a_repetition_gets_the_first_ones_answer_and_makes_no_job(api: Api) -> None:
    first = await sent(api, "first", client_ref="repeated")
    assert first.status == 202
    assert "idempotent-replayed" not in first.headers
    for key in ("first", '"first"', " first "):
        again = await sent(api, key, client_ref="repeated")
        assert (again.status, again.body) == (202, first.body)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotent-replayed"] == "true"
    assert await jobs_of(api, "repeated") == [first.json["job_id"]]
    await api.server.ended(first.json["job_id"])
    assert (await sent(api, "first", client_ref="repeated")).body == first.body
    assert not api.server.uploads()


async def test_form_and_body_and_put_are_one_request(api: Api) -> None:
    first = await sent(api, "any way")
    headers = {"Idempotency-Key": "any way", **RAW}
    posted = await api.post("/upscale" + QUERY, data=a_picture(), headers=headers)
    put = await api.call("PUT", "/upscale/a.png" + QUERY, data=a_picture(), headers=headers)
    assert first.body == posted.body == put.body


async def test_a_repetition_may_wait_and_gets_the_picture(api: Api) -> None:
    first = await sent(api, "waits")
    form = {"Idempotency-Key": "waits", "Accept": "image/*"}
    again = await api.upscale(a_picture(), FAST, query="?wait=45", headers=form)
    assert (again.status, again.headers["content-type"]) == (200, "image/png")
    assert again.headers["idempotent-replayed"] == "true"
    gone = await api.upscale(a_picture(), FAST, query="?wait=45", headers=form)
    assert (gone.status, gone.json) == (
        410,
        {
            "success": False,
            "error": "The result of the first request with this Idempotency-Key is gone; submit "
            "the picture again with another key.",
            "code": "already_downloaded",
        },
    )
    original = await api.upscale(a_picture(), FAST, query="?on_timeout=original", headers=form)
    assert original.headers["upscaled-result"] == "original; reason=completed"
    assert original.body == a_picture()
    assert (await sent(api, "waits")).body == first.body


@pytest.mark.parametrize("change", ["picture", "field", "more", "less"])
async def test_another_request_with_the_same_key_is_refused(api: Api, change: str) -> None:
    key = f"reused {change}"
    assert (await sent(api, key, client_ref="a")).status == 202
    picture = a_picture(25, 16) if change == "picture" else None
    fields = {
        "picture": {"client_ref": "a"},
        "field": {"client_ref": "b"},
        "more": {"client_ref": "a", "tta": "true"},
        "less": {},
    }[change]
    other = await sent(api, key, picture, **fields)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert (await sent(api, key, client_ref="a")).status == 202
    assert not api.server.uploads()


async def test_a_request_is_refused_while_the_first_is_being_taken_in(api: Api) -> None:
    arrived = asyncio.Event()

    async def slowly() -> object:
        yield a_picture()[:100]
        await arrived.wait()
        yield a_picture()[100:]

    headers = {"Idempotency-Key": "slow", **RAW}
    async with Api(api.server) as other:
        first = asyncio.create_task(other.post("/upscale" + QUERY, data=slowly(), headers=headers))
        await until(lambda: api.server.service.submissions.uploading)
        second = await sent(api, "slow")
        assert (second.status, second.json["code"]) == (409, "idempotency_key_in_use")
        assert second.headers["retry-after"] == "1"
        arrived.set()
        assert (await first).status == 202
    assert (await sent(api, "slow")).body == (await first).body


async def test_fifty_at_once_make_one_job(api: Api) -> None:
    answers = await asyncio.gather(*(sent(api, "fifty", client_ref="fifty") for _ in range(50)))
    assert {answer.status for answer in answers} <= {202, 409}
    accepted = {answer.body for answer in answers if answer.status == 202}
    assert len(accepted) == 1
    assert len(await jobs_of(api, "fifty")) == 1


async def test_a_refused_request_may_be_sent_again(api: Api) -> None:
    refused = await sent(api, "refused", b"no picture")
    assert refused.status == 415
    wrong = await sent(api, "refused", scale="5")
    assert wrong.status == 400
    assert (await sent(api, "refused")).status == 202


async def test_a_deleted_job_frees_its_key(api: Api) -> None:
    first = (await sent(api, "deleted")).json["job_id"]
    await api.server.ended(first)
    assert (await api.call("DELETE", f"/jobs/{first}")).status == 204
    again = await sent(api, "deleted", a_picture(30, 30))
    assert again.status == 202
    assert again.json["job_id"] != first


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb", "ä"])
async def test_a_key_that_is_none_is_refused(api: Api, key: str) -> None:
    answer = await sent(api, key)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert "Idempotency-Key" in answer.json["error"]
    assert (await sent(api, "x" * 255)).status == 202


async def test_two_keys_in_one_request_are_refused(api: Api) -> None:
    done = await curl(
        *("-sS", "-F", "image=@-;filename=a.png", api.server.url + "/upscale"),
        *("-H", "Idempotency-Key: a", "-H", "Idempotency-Key: b"),
        *("-w", "%{http_code}"),
    )
    assert done.stdout.endswith("400")


async def test_owners_have_keys_of_their_own(serve: Callable[..., Server]) -> None:
    shared = serve(server__tokens=f"mine={hash_of('m')},yours={hash_of('y')}")
    async with Api(shared, "m") as mine, Api(shared, "y") as yours:
        first = await sent(mine, "same")
        other = await sent(yours, "same", a_picture(30, 30))
        assert (first.status, other.status) == (202, 202)
        assert first.json["job_id"] != other.json["job_id"]


async def test_a_repetition_takes_no_place_in_a_full_queue(serve: Callable[..., Server]) -> None:
    small = serve(limits__max_queue_size="1")
    async with Api(small) as api:
        running = await api.upscale(a_picture(300, 300), SLOW)
        await until(lambda: small.service.jobs_running)
        first = await sent(api, "full")
        assert (await sent(api, "other")).status == 503
        assert (await sent(api, "full")).body == first.body
        for job in (first, running):
            await api.post(f"/cancel/{job.json['job_id']}")


async def test_who_asked_for_the_original_gets_it_from_a_full_queue(
    serve: Callable[..., Server],
) -> None:
    small = serve(limits__max_queue_size="1", limits__rate_limit_per_minute="4")
    async with Api(small) as api:
        jobs = [await api.upscale(a_picture(300, 300), SLOW)]
        await until(lambda: small.service.jobs_running)
        jobs.append(await api.upscale(a_picture(300, 301), SLOW))
        for _ in range(3):  # the last one is beyond the rate
            answer = await api.upscale(a_picture(), FAST, query="?on_timeout=original")
            assert (answer.status, answer.body) == (200, a_picture())
            assert answer.headers["upscaled-result"] == "original; reason=refused"
        wants = {"Accept": "image/*"}
        assert (await api.upscale(a_picture(), FAST, query="?wait=9", headers=wants)).status == 429
        wrong = await api.upscale(a_picture(), {"scale": "9"}, query="?on_timeout=original")
        assert (wrong.status, wrong.json["code"]) == (400, "bad_request")
        assert not small.uploads()
        for job in jobs:
            await api.post(f"/cancel/{job.json['job_id']}")


async def test_a_key_outlives_a_killed_server(tmp_path: Path, models_dir: Path) -> None:
    async def send(session: aiohttp.ClientSession, url: str, size: int) -> tuple[int, bytes]:
        async with session.post(
            url + "/upscale" + QUERY,
            data=a_picture(size, 16),
            headers={"Idempotency-Key": "kept", **RAW},
        ) as response:
            return response.status, await response.read()

    async with server_process(tmp_path, models_dir) as server, aiohttp.ClientSession() as session:
        first = await send(session, server.url, 24)
        assert first[0] == 202
        await server.end(signal.SIGKILL)
        await server.start()
        await server.wait_until_ready()
        assert await send(session, server.url, 24) == first
        assert (await send(session, server.url, 25))[0] == 422
        assert len(server.jobs()) == 1
