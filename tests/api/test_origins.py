"""Web pages of other sites and names that are not the server's: kept out unless listed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import aiohttp
import pytest

from testkit.running import Api, Server

PAGE = "https://photos.example"


async def test_pages_of_other_sites_get_nothing_unless_they_are_listed(
    api: Api, server: Server
) -> None:
    answer = await api.get("/models", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    form = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    refused = await api.post("/upscale", headers=form)
    assert (refused.status, refused.json["code"]) == (403, "forbidden_origin")
    refused = await api.post("/estimate", headers=form)
    assert (refused.status, refused.json["code"]) == (403, "forbidden_origin")
    assert (await api.get("/models", headers=form)).status == 200
    own = {"Origin": server.url.removesuffix("/api/v1"), "Sec-Fetch-Site": "same-origin"}
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
    async with Api(open_, "secret") as api:
        page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
        models = await api.get("/models", headers=page)
        assert models.headers["access-control-allow-origin"] == PAGE
        assert models.headers["vary"] == "Origin"
        assert (await api.post("/upscale", headers=page)).status == 415
        other = await api.get("/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
    async with Api(open_) as stranger:
        refused = await stranger.get("/models", headers=page)
        assert refused.status == 401, "being listed is no token"
        assert refused.headers["access-control-allow-origin"] == PAGE


NOBODYS = "/cancel/1234567890123456789"
"""Answered with 404 by the handler, with 403 before it."""


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # curl and the like
        ({"Origin": "http://{host}:{port}"}, True),
        ({"Origin": "HTTP://{host}:{port}"}, True),
        ({"Origin": "http://{host}"}, False),  # another service of the same machine
        ({"Origin": "http://{host}:1"}, False),
        ({"Origin": "https://{host}:{port}"}, True),
        ({"Origin": "http://localhost:{port}"}, False),  # not the host that was asked
        ({"Origin": "http://localhost:{port}", "Host": "localhost:{port}"}, True),
        ({"Origin": "http://nas", "Host": "nas"}, True),
        ({"Origin": "http://nas:80", "Host": "nas"}, True),
        ({"Origin": "https://nas", "Host": "nas"}, True),
        ({"Origin": "http://[::1]:{port}", "Host": "[::1]:{port}"}, True),
        ({"Origin": "http://evil.example"}, False),  # plain http: browsers send no Sec-Fetch-Site
        ({"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, False),
        ({"Origin": "http://{host}.evil.example:{port}"}, False),
        ({"Origin": "null"}, False),  # a sandboxed frame, a file
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),  # Referrer-Policy
        ({"Origin": ""}, False),
        ({"Origin": "x" * 5000}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, True),
    ],
)
async def test_only_the_servers_own_pages_may_change_something(
    api: Api, server: Server, headers: dict[str, str], allowed: bool
) -> None:
    sent = {n: v.format(host="127.0.0.1", port=server.port) for n, v in headers.items()}
    answer = await api.post(NOBODYS, headers=sent)
    code = "unknown_job" if allowed else "forbidden_origin"
    assert (answer.status, answer.json["code"]) == (404 if allowed else 403, code)
    if not allowed:
        assert "server.cors_origins" in answer.json["error"]
        assert len(answer.json["error"]) < 700


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8089", True),
        ("192.168.1.20:8089", True),
        ("[fe80::1]:8089", True),
        ("localhost", True),
        ("LOCALHOST:8089", True),
        ("upscaled.localhost:8089", True),
        ("nas", True),
        (socket.gethostname(), True),
        (f"{socket.gethostname()}.local:8089", True),
        ("evil.example", False),
        ("evil.example:8089", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("1.2.3.4.5", False),
        ("evil.example.", False),
        ("x." * 2000 + "example", False),
    ],
)
async def test_only_the_servers_own_names_are_answered(api: Api, host: str, allowed: bool) -> None:
    for method, path in (("GET", "/models"), ("GET", "/health"), ("POST", NOBODYS)):
        answer = await api.call(method, path, headers={"Host": host})
        assert (answer.status != 403) == allowed, answer
        if not allowed:
            assert answer.json["code"] == "forbidden_host"
            assert "server.allowed_hosts" in answer.json["error"]


async def test_listed_names_are_answered(serve: Callable[..., Server]) -> None:
    server = serve(server__allowed_hosts="photos.example,*.lan.example")
    async with Api(server) as api:
        for host, status in (
            ("photos.example", 200),
            ("PHOTOS.example.:443", 200),
            ("big.lan.example", 200),
            ("lan.example", 403),
            ("notphotos.example", 403),
        ):
            assert (await api.get("/models", headers={"Host": host})).status == status, host
        # nginx rewrites Host by default: the listed name tells that the page is our own.
        own = await api.post(NOBODYS, headers={"Origin": "https://photos.example"})
        assert own.status == 404
        other = await api.post(NOBODYS, headers={"Origin": "https://evil.example"})
        assert other.status == 403


async def test_any_name_may_be_listed_and_a_token_makes_names_harmless(
    serve: Callable[..., Server],
) -> None:
    evil = {"Host": "evil.example"}
    async with Api(serve(server__allowed_hosts="*")) as api:
        assert (await api.get("/models", headers=evil)).status == 200
    async with Api(serve(server__auth_token="secret"), "secret") as api:
        assert (await api.get("/models", headers=evil)).status == 200


@pytest.mark.parametrize(
    ("trusted", "headers", "status"),
    [
        ("127.0.0.1", {"X-Forwarded-Host": "photos.example", "Origin": PAGE}, 404),
        ("127.0.0.1", {"X-Forwarded-Host": "photos.example:8443", "Origin": PAGE + ":8443"}, 404),
        ("127.0.0.1", {"Host": "photos.example", "Origin": PAGE + ":8443"}, 404),
        ("127.0.0.1", {"Host": "photos.example"}, 404),
        ("127.0.0.1", {"X-Forwarded-Host": "photos.example", "Origin": "https://e.example"}, 403),
        ("127.0.0.1", {"Origin": PAGE}, 403),
        ("10.0.0.0/8", {"X-Forwarded-Host": "photos.example", "Origin": PAGE}, 403),
        ("10.0.0.0/8", {"Host": "photos.example"}, 403),
    ],
)
async def test_a_trusted_proxy_tells_the_public_name(
    serve: Callable[..., Server], trusted: str, headers: dict[str, str], status: int
) -> None:
    async with Api(serve(server__trusted_proxies=trusted)) as api:
        assert (await api.post(NOBODYS, headers=headers)).status == status


async def raw_status(server: Server, target: str, *headers: str, method: str = "GET") -> int:
    """Send a request as it is; return the status of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        head = (f"{method} {target} HTTP/1.1", *headers, "Connection: close", "", "")
        writer.write("\r\n".join(head).encode())
        async with asyncio.timeout(20):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://evil.example", "localhost", 403),
        ("http://evil.example:{port}", "127.0.0.1:{port}", 403),
        ("HTTP://EVIL.example.", "localhost", 403),
        ("http://localhost@evil.example", "localhost", 403),
        ("https://evil.example", "localhost", 403),
        ("ftp://evil.example", "localhost", 403),
        ("http://localhost", "evil.example", 200),  # RFC 9112: Host counts for nothing then
        ("http://127.0.0.1:{port}", "127.0.0.1:{port}", 200),
        ("http://evil.example@localhost", "localhost", 200),
        ("http://[::1]:{port}", "localhost", 200),
        ("", "evil.example", 403),
        ("", "localhost", 200),
    ],
)
async def test_an_absolute_target_is_judged_instead_of_host(
    server: Server, target: str, host: str, status: int
) -> None:
    target, host = (text.format(port=server.port) for text in (target, host))
    assert await raw_status(server, f"{target}/api/v1/models", f"Host: {host}") == status
    if target.startswith("http:"):
        shown = await raw_status(server, f"{target}/metrics", f"Host: {host}")
        assert shown == status, "metrics are open to this machine's own names only"


async def test_a_page_is_of_the_server_that_an_absolute_target_names(server: Server) -> None:
    target, host = f"http://nas/api/v1{NOBODYS}", "Host: other"
    for origin, status in (("http://nas", 404), ("http://other", 403)):
        told = await raw_status(server, target, host, f"Origin: {origin}", method="POST")
        assert told == status, origin
