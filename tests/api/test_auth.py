"""The token: asked for everywhere but where nothing of anybody's is to be seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit.running import Api, Server, a_picture
from upscaled.api.auth import WRONG_TOKENS_PER_MINUTE
from upscaled.api.rate_limit import RateLimit

TOKEN = "a secret with ünïcode"
NOBODYS = "1234567890123456789"
GUARDED = [
    ("POST", "/upscale"),
    ("GET", f"/status/{NOBODYS}"),
    ("GET", f"/download/{NOBODYS}"),
    ("POST", f"/cancel/{NOBODYS}"),
    ("GET", "/models"),
    ("GET", "/nowhere"),
    ("GET", "/healthy"),
]


async def test_without_the_token_only_health_and_the_contract_are_open(
    serve: Callable[..., Server],
) -> None:
    guarded = serve(server__auth_token=TOKEN)
    async with Api(guarded) as api:
        assert (await api.get("/health")).json["status"] == "starting"  # it is not tested
        for path in ("/openapi.yaml", "/docs", "/docs/docs.js"):
            assert (await api.get(path)).status == 200
        for method, path in GUARDED:
            answer = await api.call(method, path)
            assert (answer.status, answer.json["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == 'Bearer realm="upscaled"'
            assert "`Authorization: Bearer …`" in answer.json["error"]
        refused = await api.upscale(a_picture())
        assert refused.status == 401
        assert guarded.uploads() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer   {TOKEN} "}, 200),
        ({"X-Auth-Token": TOKEN}, 200),
        ({"Authorization": "Basic eDp5", "X-Auth-Token": TOKEN}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"X-Auth-Token": ""}, 401),
        ({"X-Auth-Token": TOKEN + "x"}, 401),
    ],
)
async def test_the_token_is_taken_from_either_header(
    serve: Callable[..., Server], headers: dict[str, str], status: int
) -> None:
    async with Api(serve(server__auth_token=TOKEN)) as api:
        assert (await api.get("/models", headers=headers)).status == status


async def test_wrong_tokens_are_limited_and_the_right_one_is_not(
    serve: Callable[..., Server],
) -> None:
    guarded = serve(server__auth_token=TOKEN)
    async with Api(guarded, TOKEN) as friend, Api(guarded, "wrong") as stranger:
        statuses = [(await stranger.get("/models")).status for _ in range(15)]
        assert statuses == [401] * WRONG_TOKENS_PER_MINUTE + [429] * 5
        refused = await stranger.post("/upscale")
        assert (refused.status, refused.json["code"]) == (429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json["error"].startswith("More than 10 wrong tokens in a minute;")
        assert (await friend.get("/models")).status == 200
        assert (await stranger.get("/health")).json["status"] == "starting"
    async with Api(guarded) as nobody:
        assert (await nobody.get("/models")).status == 401


async def test_addresses_that_try_tokens_are_remembered_up_to_a_bound() -> None:
    limit = RateLimit(1, "wrong tokens")
    for number in range(20_000):
        limit.check(str(number))
    assert len(limit._times) == 10_000
