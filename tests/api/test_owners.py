"""Several tokens: each sees, cancels and downloads its own jobs only."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from testkit.running import Api, Server, a_picture
from upscaled.callers import hash_of

MINE, YOURS, MAIN = "my secret", "your secret", "the one secret"
DISPOSITION = b"Content-Disposition: form-data; name=image; filename=a"
TOKENS = f"mine={hash_of(MINE)},yours={hash_of(YOURS)}"


async def test_anothers_job_looks_like_none(serve: Callable[..., Server]) -> None:
    shared = serve(server__tokens=TOKENS, server__auth_token=MAIN)
    async with (
        Api(shared, MINE) as mine,
        Api(shared, YOURS) as yours,
        Api(shared, MAIN) as main,
    ):
        job_id = await mine.completed()
        nobodys = await yours.get("/status/1234567890123456789")
        for stranger in (yours, main):
            for method, path in (
                ("GET", f"/status/{job_id}"),
                ("GET", f"/download/{job_id}"),
                ("HEAD", f"/download/{job_id}"),
                ("GET", f"/receipt/{job_id}"),
                ("POST", f"/cancel/{job_id}"),
            ):
                answer = await stranger.call(method, path)
                assert answer.status == 404, (method, path)
                if method != "HEAD":
                    assert answer.body == nobodys.body
        assert (await mine.get(f"/status/{job_id}")).json["status"] == "completed"
        assert (await mine.get(f"/download/{job_id}")).status == 200


async def test_whose_a_job_is_survives_a_restart_and_is_shown_to_nobody(
    serve: Callable[..., Server],
) -> None:
    shared = serve(server__tokens=TOKENS)
    async with Api(shared, MINE) as mine:
        job_id = await mine.completed()
        shown = json.dumps((await mine.get(f"/status/{job_id}")).json)
        assert "mine" not in shown
    stored = await shared.ended(job_id)
    assert (stored.owner, stored.client) == ("mine", "")


async def test_a_client_gets_its_share_of_the_queue_and_others_theirs(
    serve: Callable[..., Server],
) -> None:
    shared = serve(server__tokens=TOKENS, limits__max_queue_per_client="2")
    async with Api(shared, MINE) as mine, Api(shared, YOURS) as yours:
        slow = {"model_name": "realesrgan-x4plus", "scale": "4"}
        jobs = [await mine.accepted(a_picture(300, 300), **slow) for _ in range(2)]
        refused = await mine.upscale(a_picture())
        assert (refused.status, refused.json["code"]) == (503, "queue_full")
        assert "You have 2 jobs in the queue" in refused.json["error"]
        assert int(refused.headers["retry-after"]) >= 1
        other = await yours.accepted()
        for job_id in jobs:
            await mine.post(f"/cancel/{job_id}")
        await shared.ended(other)
        assert (await mine.upscale(a_picture())).status == 202


async def test_the_rate_is_counted_by_token(serve: Callable[..., Server]) -> None:
    shared = serve(server__tokens=TOKENS, limits__rate_limit_per_minute="2")
    async with Api(shared, MINE) as mine, Api(shared, YOURS) as yours:
        first = await mine.upscale(a_picture(), {"model_name": "realesr-animevideov3"})
        assert first.headers["ratelimit-policy"] == '"submissions";q=2;w=60'
        assert first.headers["ratelimit"].startswith('"submissions";r=1;t=')
        unusable = await mine.upscale(b"x")
        assert (unusable.status, unusable.headers["ratelimit-remaining"]) == (415, "0")
        refused = await mine.upscale(b"x")
        assert refused.headers["ratelimit-remaining"] == "0"
        assert refused.headers["ratelimit-reset"] == refused.headers["retry-after"]
        assert (await yours.upscale(b"x")).status == 415


@pytest.mark.parametrize(("trusted", "statuses"), [("", [415, 429]), ("127.0.0.1", [415, 415])])
async def test_the_rate_is_counted_by_the_address_that_a_trusted_proxy_names(
    serve: Callable[..., Server], trusted: str, statuses: list[int]
) -> None:
    proxied = serve(limits__rate_limit_per_minute="1", server__trusted_proxies=trusted)
    async with Api(proxied) as api:
        answers = [
            await api.post(
                "/upscale",
                data=b"--b\r\n" + DISPOSITION + b"\r\n\r\nx\r\n--b--",
                headers={
                    "Content-Type": "multipart/form-data; boundary=b",
                    "X-Forwarded-For": f"198.51.100.{number}",
                },
            )
            for number in range(2)
        ]
    assert [answer.status for answer in answers] == statuses
