"""Trying again: a new job with the picture and the fields of an ended one."""

from __future__ import annotations

from collections.abc import Callable

from testkit.running import Api, Server, a_picture
from upscaled.callers import hash_of


async def test_a_cancelled_job_is_tried_again_with_its_fields(api: Api, server: Server) -> None:
    fields = {"format": "webp", "quality": "80", "client_ref": "holiday", "scale": "4"}
    first = await api.accepted(a_picture(800, 600), model_name="realesrgan-x4plus", **fields)
    early = await api.post(f"/jobs/{first}/retry")
    assert (early.status, early.json["code"]) == (409, "wrong_state")
    assert (await api.post(f"/cancel/{first}")).status == 200
    assert server.files_of(first) == ["upload"]
    answer = await api.post(f"/jobs/{first}/retry")
    assert answer.status == 202
    second = answer.json["job_id"]
    assert second != first
    old, new = await server.ended(first), (await api.get(f"/status/{second}")).json
    assert new["client_ref"] == "holiday"
    assert new["model_name"] == "realesrgan-x4plus"
    await api.post(f"/cancel/{second}")
    assert (await server.ended(second)).request == old.request
    assert (await api.call("DELETE", f"/jobs/{first}")).status == 204
    assert not server.files_of(first)


async def test_a_result_of_an_exact_size_has_it_again(api: Api, server: Server) -> None:
    answer = await api.upscale(a_picture(33, 100), {"height": "251"})
    first = answer.json["job_id"]
    old = await server.ended(first)
    second = (await api.post(f"/jobs/{first}/retry")).json["job_id"]
    new = await server.ended(second)
    assert new.request == old.request
    assert new.receipt["output"]["sha256"] == old.receipt["output"]["sha256"]


async def test_without_the_upload_it_is_told_why(api: Api) -> None:
    job_id = await api.completed()
    assert (await api.get(f"/download/{job_id}")).status == 200
    assert (await api.get(f"/download/{job_id}")).status == 410
    answer = await api.post(f"/jobs/{job_id}/retry")
    assert (answer.status, answer.json["code"]) == (409, "wrong_state")
    assert "submit the picture again" in answer.json["error"]


async def test_nobody_tries_anothers_job_again(serve: Callable[..., Server]) -> None:
    shared = serve(server__tokens=f"mine={hash_of('my')},yours={hash_of('your')}")
    async with Api(shared, "my") as mine, Api(shared, "your") as yours:
        job_id = await mine.completed()
        assert (await yours.post(f"/jobs/{job_id}/retry")).status == 404
        assert (await mine.post(f"/jobs/{job_id}/retry")).status == 202


async def test_uploads_of_failed_jobs_are_kept_over_a_restart_and_then_deleted(
    serve: Callable[..., Server],
) -> None:
    shared = serve(storage__result_ttl_hours="0.001")  # 3.6 s
    async with Api(shared) as api:
        job_id = await api.accepted(a_picture(800, 600), model_name="realesrgan-x4plus")
        await api.post(f"/cancel/{job_id}")
        assert shared.files_of(job_id) == ["upload"]
        ended = (await shared.ended(job_id)).finished or 0.0
        shared.clean(ended)
        assert shared.files_of(job_id) == ["upload"]
        shared.clean(ended + 4000)  # files of a cluster are kept for an hour at least
        assert not shared.files_of(job_id)
