"""``GET /jobs`` and ``DELETE /jobs/{job_id}``: own jobs, page by page, and gone when deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit.running import Api, Server, a_picture
from upscaled.callers import hash_of

MINE, YOURS = "my secret", "your secret"


async def test_own_jobs_are_listed_found_and_deleted(serve: Callable[..., Server]) -> None:
    server = serve(server__tokens=f"mine={hash_of(MINE)},yours={hash_of(YOURS)}")
    async with Api(server, MINE) as mine, Api(server, YOURS) as yours:
        await yours.completed()
        made = [await mine.completed(client_ref=f"ref {number % 2}") for number in range(5)]
        pages, query = [], "?limit=2"
        while query:
            page = (await mine.get(f"/jobs{query}")).json
            pages.append([job["job_id"] for job in page["jobs"]])
            query = f"?limit=2&cursor={page['next_cursor']}" if "next_cursor" in page else ""
        assert pages == [[made[4], made[3]], [made[2], made[1]], [made[0]]]
        found = (await mine.get("/jobs?client_ref=ref+1&state=completed")).json["jobs"]
        assert [job["job_id"] for job in found] == [made[3], made[1]]
        status = (await mine.get(f"/status/{made[1]}")).json
        assert status["client_ref"] == "ref 1"
        assert {name: found[1][name] for name in status} == status
        middle = found[1]["created"]
        later = (await mine.get(f"/jobs?created_after={middle}")).json["jobs"]
        assert middle not in {job["created"] for job in later}
        assert (await yours.call("DELETE", f"/jobs/{made[1]}")).status == 404
        assert (await mine.call("DELETE", f"/jobs/{made[1]}")).status == 204
        for path in (f"/status/{made[1]}", f"/download/{made[1]}", f"/receipt/{made[1]}"):
            assert (await mine.get(path)).status == 404
        assert (await mine.call("DELETE", f"/jobs/{made[1]}")).status == 404
        assert not server.files_of(made[1])
        assert len((await mine.get("/jobs")).json["jobs"]) == 4


async def test_an_active_job_is_listed_as_it_is_and_not_deleted(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), model_name="realesrgan-x4plus", scale="4")
    (job,) = (await api.get("/jobs?limit=1")).json["jobs"]
    assert (job["job_id"], job["status"] in {"queued", "processing"}) == (job_id, True)
    refused = await api.call("DELETE", f"/jobs/{job_id}")
    assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    await api.post(f"/cancel/{job_id}")
    assert (await api.call("DELETE", f"/jobs/{job_id}")).status == 204


@pytest.mark.parametrize(
    "query",
    ["state=done", "limit=0", "limit=201", "limit=x", "created_after=now", "cursor=x",
     "cursor=e_1000000000000000000", "limit=1&limit=2"],
)  # fmt: skip
async def test_a_filter_that_makes_no_sense_is_refused(api: Api, query: str) -> None:
    answer = await api.get(f"/jobs?{query}")
    assert (answer.status, answer.json["code"]) == (400, "bad_request")


@pytest.mark.parametrize(("label", "status"), [("x" * 200, 202), ("x" * 201, 400), ("a\tb", 400)])
async def test_a_label_has_bounds(api: Api, label: str, status: int) -> None:
    answer = await api.upscale(
        a_picture(), {"model_name": "realesr-animevideov3", "client_ref": label}
    )
    assert answer.status == status
