"""Web pages of elsewhere: kept out, or let in where the settings list them."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from testkit.running import Caller, Server

PAGE = "https://photos.example"


async def test_pages_of_other_sites_get_nothing_unless_they_are_listed(
    api: Caller, server: Server
) -> None:
    answer = await api.get("/models", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    form = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    refused = await api.post("/upscale", headers=form)
    assert (refused.status, refused.json["code"]) == (403, "forbidden_origin")
    refused = await api.post("/estimate", headers=form)
    assert (refused.status, refused.json["code"]) == (403, "forbidden_origin")
    assert (await api.get("/models", headers=form)).status == 200
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert (await api.post("/upscale", headers=own)).status == 415


async def test_a_listed_page_may_ask_first_and_then_call(serve: Callable[..., Server]) -> None:
    open_ = serve(server__cors_origins=PAGE, server__auth_token="secret")
    asking = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    async with (
        aiohttp.ClientSession() as session,
        session.options(open_.url + "/upscale", headers=asking) as answer,
    ):
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    async with Caller(open_, "secret") as api:
        page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
        models = await api.get("/models", headers=page)
        assert models.headers["access-control-allow-origin"] == PAGE
        assert models.headers["vary"] == "Origin"
        assert (await api.post("/upscale", headers=page)).status == 415
        other = await api.get("/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
    async with Caller(open_) as stranger:
        refused = await stranger.get("/models", headers=page)
        assert refused.status == 401, "being listed is no token"
        assert refused.headers["access-control-allow-origin"] == PAGE
