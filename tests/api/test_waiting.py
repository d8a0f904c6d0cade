"""``GET /status/{job_id}?wait=30``: one question instead of many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from testkit.running import Caller, Server, a_picture

SLOW = {"model_name": "realesrgan-x4plus", "scale": "4"}


async def _waits_there_are(server: Server, job_id: str, wanted: bool) -> None:
    """Wait until some request waits for the job in the server, or none does."""

    async def look() -> None:
        while (f"wait-{job_id}" in {task.get_name() for task in asyncio.all_tasks()}) is not wanted:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(asyncio.wrap_future(server.call(look())), 30)


async def test_one_question_is_answered_when_the_job_has_ended(api: Caller) -> None:
    job_id = await api.accepted(a_picture(64, 64))
    told = (await api.get(f"/status/{job_id}?wait=60")).json
    assert (told["status"], told["progress"]) == ("completed", 100)
    again = (await api.get(f"/status/{job_id}?wait=60")).json
    assert again == told


async def test_a_cancelled_job_ends_the_wait(api: Caller) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    waiting = asyncio.create_task(api.get(f"/status/{job_id}?wait=60"))
    await _waits_there_are(api.server, job_id, wanted=True)
    assert (await api.post(f"/cancel/{job_id}")).status == 200
    assert (await waiting).json["status"] == "cancelled"


async def test_when_the_seconds_are_over_the_answer_says_how_the_job_stands(api: Caller) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    for query in ("?wait=0", "?wait=1", ""):
        answer = await api.get(f"/status/{job_id}{query}")
        assert (answer.status, answer.json["status"] in {"queued", "processing"}) == (200, True)
    await api.post(f"/cancel/{job_id}")


async def test_nothing_waits_for_a_caller_who_has_gone(api: Caller) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    async with Caller(api.server) as other:
        waiting = asyncio.create_task(other.get(f"/status/{job_id}?wait=60"))
        await _waits_there_are(api.server, job_id, wanted=True)
        waiting.cancel()
        await asyncio.wait({waiting})
    await _waits_there_are(api.server, job_id, wanted=False)
    assert (await api.get(f"/status/{job_id}")).json["status"] in {"queued", "processing"}
    await api.post(f"/cancel/{job_id}")


async def test_a_server_that_stops_answers_those_who_wait(serve: Callable[..., Server]) -> None:
    server = serve()
    async with Caller(server) as api:
        job_id = await api.accepted(a_picture(300, 300), **SLOW)
        waiting = asyncio.create_task(api.get(f"/status/{job_id}?wait=60"))
        await _waits_there_are(server, job_id, wanted=True)
        await asyncio.to_thread(server.stop_serving)
        answer = await waiting
    assert (answer.status, answer.json["status"] in {"queued", "processing"}) == (200, True)


@pytest.mark.parametrize("query", ["61", "-1", "1.5", "long", "", "5&wait=6", "٣"])
async def test_a_wait_that_is_no_number_of_seconds_is_refused(api: Caller, query: str) -> None:
    job_id = await api.accepted()
    answer = await api.get(f"/status/{job_id}?wait={query}")
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    shown = query.replace("&wait=", ", ")
    assert answer.json["error"] == (
        f"wait is {shown!r}; allowed is one whole number of seconds from 0 to 60."
    )
