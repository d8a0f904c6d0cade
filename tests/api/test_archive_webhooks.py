"""Webhooks of archives from outside: their ends are told once, also after a kill."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from testkit import contract
from testkit.books import a_book, a_page, packed
from testkit.receiver import receiving
from testkit.running import FAST_MODEL, Api, Server
from testkit.server_process import ServerProcess
from upscaled.outgoing import signatures

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
LOCAL = {"outgoing__allow": "127.0.0.1", "outgoing__ports": "", "webhooks__retry_seconds": "1,1"}
QUERY = f"/archives?model_name={FAST_MODEL}&scale=2&filename=book.cbz"


async def submitted(api: Api, book: bytes, **fields: str) -> dict[str, Any]:
    query = "".join(f"&{name}={value}" for name, value in fields.items())
    answer = await api.post(
        QUERY + query, data=book, headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.status == 202, answer
    return dict(answer.json)


async def test_a_receiver_is_sent_the_end_of_an_archive_once(serve: Callable[..., Server]) -> None:
    server = serve(**LOCAL, webhooks__secret=SECRET, server__public_url="https://up.example/x")
    async with receiving() as receiver, Api(server) as api:
        shown = await submitted(api, a_book(3), callback_url=receiver.url + "?token=hidden")
        await receiver.until(lambda: bool(receiver.taken))
        (request,) = receiver.taken
        contract.validate(request.json, "/components/schemas/ArchiveWebhookMessage")
        stamp = int(request.headers["webhook-timestamp"])
        expected = signatures.headers(signatures.keys_of(SECRET), request.id, stamp, request.body)
        assert expected.items() <= request.headers.items()
        told, archive_id = request.json, shown["archive_id"]
        assert (told["type"], told["data"]["pages_upscaled"]) == ("archive.completed", 3)
        link = f"https://up.example/x/api/v1/archives/{archive_id}/download"
        assert told["data"]["download_url"] == link
        listed = (await api.get(f"/archives/{archive_id}/webhooks")).json
        assert listed["receiver"] == f"http://127.0.0.1:{receiver.port}", "the rest may be secret"
        assert listed["callback_events"] == ["completed", "failed", "cancelled"]
        assert [message["id"] for message in listed["messages"]] == [request.id]
        assert "hidden" not in (await api.get(f"/archives/{archive_id}")).body.decode()
        assert (await api.get("/jobs")).json["jobs"] == [], "pages send nothing of their own"


async def test_failures_and_expiries_are_events_too(serve: Callable[..., Server]) -> None:
    server = serve(**LOCAL)
    broken = packed([("1.png", a_page(1)), ("2.png", a_page(2)[:60])])
    async with receiving() as receiver, Api(server) as api:
        chosen = {"callback_url": receiver.url, "callback_events": "failed,expired"}
        await submitted(api, broken, **chosen)
        await receiver.until(lambda: len(receiver.taken) == 1)
        told = receiver.taken[0].json
        assert (told["type"], told["data"]["code"]) == ("archive.failed", "page_failed")
        shown = await submitted(api, a_book(1), **chosen)
        await api.get(f"/archives/{shown['archive_id']}?wait=30")
        later = time.time() + 3600 * server.config.storage.result_ttl_hours + 60
        cleaning = server.service.archives.results._clean(later)
        await asyncio.wrap_future(server.call(cleaning))
        await receiver.until(lambda: len(receiver.taken) == 2)
        told = receiver.taken[1].json
        contract.validate(told, "/components/schemas/ArchiveWebhookMessage")
        assert (told["type"], told["data"]["result_gone"]) == ("archive.expired", "expired")
        assert "download_url" not in told["data"]


async def test_an_end_is_told_after_a_kill(tmp_path: Path, models_dir: Path) -> None:
    settings = {
        "outgoing.allow": ["127.0.0.1"], "outgoing.ports": [], "webhooks.retry_seconds": [1, 1, 1],
    }  # fmt: skip
    server = ServerProcess(tmp_path, models_dir, settings)
    async with receiving(lambda _: web.Response(status=500)) as receiver:
        try:
            await server.start()
            await server.wait_until_healthy()
            url = f"{server.url}{QUERY}&callback_url={receiver.url}"
            async with aiohttp.ClientSession() as session:
                async with session.post(url, data=a_book(2)) as answer:
                    assert answer.status == 202, await answer.text()
                await receiver.until(lambda: bool(receiver.requests))
            await server.end(signal.SIGKILL)
            receiver.answer = lambda _: web.Response(status=204)
            await server.start()
            await receiver.until(lambda: bool(receiver.taken))
        finally:
            await server.reap()
    assert len({request.id for request in receiver.requests}) == 1
    assert receiver.taken[0].json["type"] == "archive.completed"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("callback_events=failed", "The field callback_events needs callback_url."),
        ("callback_url=http://169.254.1.1/", "The callback_url can't be used."),
        ("callback_url=http://a.example/&callback_events=done", "callback_events has 'done'"),
    ],
)
async def test_a_receiver_that_may_not_be_told_is_refused(
    api: Api, fields: str, sentence: str
) -> None:
    answer = await api.post(
        f"{QUERY}&{fields}", data=a_book(1), headers={"Content-Type": "application/octet-stream"}
    )
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert sentence in answer.json["error"]
