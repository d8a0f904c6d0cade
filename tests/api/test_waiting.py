"""``GET /status/{job_id}?wait=30``: one question instead of many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from testkit.running import Api, Server, a_picture
from testkit.waiting import SLOW, until_waited_for
from upscaled.api.connections import Connection


async def test_one_question_is_answered_when_the_job_has_ended(api: Api) -> None:
    job_id = await api.accepted(a_picture(64, 64))
    told = (await api.get(f"/status/{job_id}?wait=60")).json
    assert (told["status"], told["progress"]) == ("completed", 100)
    again = (await api.get(f"/status/{job_id}?wait=60")).json
    assert again == told


async def test_a_cancelled_job_ends_the_wait(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    waiting = asyncio.create_task(api.get(f"/status/{job_id}?wait=60"))
    await until_waited_for(api.server, job_id, wanted=True)
    assert (await api.post(f"/cancel/{job_id}")).status == 200
    assert (await waiting).json["status"] == "cancelled"


async def test_when_the_seconds_are_over_the_answer_says_how_the_job_stands(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    for query in ("?wait=0", "?wait=1", ""):
        answer = await api.get(f"/status/{job_id}{query}")
        assert (answer.status, answer.json["status"] in {"queued", "processing"}) == (200, True)
    await api.post(f"/cancel/{job_id}")


async def test_nothing_waits_for_a_caller_who_has_gone(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    async with Api(api.server) as other:
        waiting = asyncio.create_task(other.get(f"/status/{job_id}?wait=60"))
        await until_waited_for(api.server, job_id, wanted=True)
        waiting.cancel()
        await asyncio.wait({waiting})
    await until_waited_for(api.server, job_id, wanted=False)
    assert (await api.get(f"/status/{job_id}")).json["status"] in {"queued", "processing"}
    await api.post(f"/cancel/{job_id}")


async def test_a_server_that_stops_answers_those_who_wait(serve: Callable[..., Server]) -> None:
    server = serve()
    async with Api(server) as api:
        job_id = await api.accepted(a_picture(300, 300), **SLOW)
        waiting = asyncio.create_task(api.get(f"/status/{job_id}?wait=60"))
        await until_waited_for(server, job_id, wanted=True)
        await asyncio.to_thread(server.stop_serving)
        answer = await waiting
    assert (answer.status, answer.json["status"] in {"queued", "processing"}) == (200, True)


@pytest.mark.parametrize("query", ["61", "-1", "1.5", "long", "5&wait=6", "٣"])
async def test_a_wait_that_is_no_number_of_seconds_is_refused(api: Api, query: str) -> None:
    job_id = await api.accepted()
    answer = await api.get(f"/status/{job_id}?wait={query}")
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    shown = query.replace("&wait=", ", ")
    assert answer.json["error"] == (
        f"wait is {shown!r}; it must be one whole number of seconds between 0 and 60."
    )


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=45", "wait=45"),
        ("respond-async, wait=40", "wait=40"),
        ('Wait = "30"; x=1, wait=0', "wait=30"),
        ("wait=600", "wait=45"),
        ("wait", "wait=45"),
        ("wait=soon", None),
        ("respond-async; wait=40", None),
        ("return=minimal", None),
        ("", None),
    ],
)
async def test_a_preference_is_followed_and_acknowledged(
    api: Api, prefer: str, applied: str | None
) -> None:
    job_id = await api.accepted()
    answer = await api.get(f"/status/{job_id}", headers={"Prefer": prefer})
    assert answer.headers.get("preference-applied") == applied
    if applied:
        assert answer.json["status"] == "completed"


async def test_the_querys_wait_takes_precedence(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    answer = await api.get(f"/status/{job_id}?wait=0", headers={"Prefer": "wait=45"})
    assert answer.json["status"] != "completed"
    assert "preference-applied" not in answer.headers
    await api.post(f"/cancel/{job_id}")


async def test_every_answer_comes_before_proxies_close_the_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def wait(_: Connection, awaited: asyncio.Task[Any], seconds: float) -> None:
        waited.append(seconds)
        awaited.cancel()

    monkeypatch.setattr(Connection, "wait", wait)
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    await api.get(f"/status/{job_id}?wait=60")
    await api.get(f"/download/{job_id}?wait=46")
    await api.get(f"/status/{job_id}", headers={"Prefer": "wait=3600"})
    assert waited == [45, 45, 45]
    await api.post(f"/cancel/{job_id}")
