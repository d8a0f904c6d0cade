"""Previews: a part of a picture at once, whatever the queue does."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from testkit.contract import Answer
from testkit.networks import psnr
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.waiting import until

PNG = {"Content-Type": "image/png"}


async def preview(api: Api, picture: bytes, query: str = "", **options: Any) -> Answer:
    """Ask for a preview, with the picture as the body."""
    options.setdefault("headers", PNG)
    path = f"/preview?model_name={FAST_MODEL}{query}"
    return await api.post(path, data=picture, **options)


def folders(server: Server) -> set[str]:
    return server.jobs_with_files()


async def test_a_preview_is_what_a_job_makes_of_that_part(api: Api) -> None:
    picture = a_picture(60, 40)
    answer = await preview(api, picture, "&scale=2")
    assert answer.status == 200, answer
    assert answer.headers["upscaled-model"] == FAST_MODEL
    assert answer.headers["upscaled-scale"] == "2"
    job_id = await api.completed(picture, scale="2")
    whole = Image.open(io.BytesIO((await api.get(f"/download/{job_id}")).body)).convert("RGB")
    made = Image.open(io.BytesIO(answer.body)).convert("RGB")
    assert made.size == (120, 80)
    assert np.array_equal(np.asarray(made), np.asarray(whole))

    part = await preview(api, picture, "&scale=2&x=10&y=5&width=20&height=30")
    made = Image.open(io.BytesIO(part.body)).convert("RGB")
    assert made.size == (40, 60)
    cut = np.asarray(whole.crop((20, 10, 60, 70))).astype(int)
    assert np.abs(np.asarray(made) - cut).mean() < 8


async def test_the_middle_of_a_large_picture(serve: Callable[..., Server]) -> None:
    shared = serve(limits__preview_pixels="1024")
    async with Api(shared) as api:
        answer = await preview(api, a_picture(300, 200), "&scale=2")
        assert Image.open(io.BytesIO(answer.body)).size == (64, 64)
        told = (await preview(api, a_picture(300, 200), "&width=100&height=100")).json
        assert told["error"] == "The part has 10000 pixels; at most 1024 are allowed."


async def test_wrong_fields_are_refused_and_nothing_is_left(api: Api, server: Server) -> None:
    before = folders(server)
    for query in ("&x=50&width=20&height=20", "&scale=5", "&width=0", "&x=-1"):
        answer = await preview(api, a_picture(60, 40), query)
        assert (answer.status, answer.json["code"]) == (400, "bad_request"), query
    assert (await preview(api, b"no picture")).status == 415
    assert (await preview(api, a_picture(60, 40)[:-60])).status == 422
    assert folders(server) == before
    assert not server.uploads()


async def test_a_preview_does_not_wait_for_a_large_job(api: Api, server: Server) -> None:
    job_id = await api.accepted(a_picture(900, 900), model_name="realesrgan-x4plus", scale="4")
    await until(lambda: server.service.jobs_running == 1, 60)
    answer = await preview(api, a_picture(), "&scale=2")
    assert answer.status == 200
    assert (await api.get(f"/status/{job_id}")).json["status"] == "processing"
    await api.post(f"/cancel/{job_id}")


async def test_a_part_of_which_the_model_makes_something_else_is_no_fault_of_the_server(
    api: Api,
) -> None:
    # Vertical stripes, a cosine of 5 pixels: the network turns them into garbage.
    row = (127 + 127.5 * np.cos(2 * np.pi * np.arange(192) / 5)).astype(np.uint8)
    stripes = io.BytesIO()
    Image.fromarray(np.tile(row, (192, 1))).convert("RGB").save(stripes, "PNG")
    answer = await preview(api, stripes.getvalue())
    assert (answer.status, answer.json["code"]) == (422, "unlike_source"), answer
    said = answer.json["error"]
    assert said.startswith(f"{FAST_MODEL} makes a picture that is unlike this part: ")
    assert said.endswith(" Choose another model or another part.")


async def test_a_preview_takes_the_precision_of_the_job_to_come(api: Api) -> None:
    picture = a_picture(48, 32)
    path = "/preview?model_name=realesrgan-x4plus&scale=4&precision="
    made = []
    for precision in ("exact", "fast"):
        answer = await api.post(path + precision, data=picture, headers=PNG)
        assert answer.status == 200, answer
        made.append(np.asarray(Image.open(io.BytesIO(answer.body))))
    assert psnr(made[0], made[1]) > 40
    refused = await api.post(path + "quick", data=picture, headers=PNG)
    assert refused.status == 400
    assert refused.json["error"] == "precision is 'quick'; it must be exact or fast."


async def test_the_rate_of_previews_is_limited(serve: Callable[..., Server]) -> None:
    shared = serve(limits__previews_per_minute="2", limits__rate_limit_per_minute="1")
    async with Api(shared) as api:
        for _ in range(2):
            assert (await preview(api, a_picture(), "&scale=2")).status == 200
        refused = await preview(api, a_picture(), "&scale=2")
        assert (refused.status, refused.json["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
        await api.accepted()  # another limit


async def test_a_caller_who_hangs_up_ends_the_work(api: Api, server: Server) -> None:
    before = folders(server)
    url = f"{server.url}/preview?model_name=realesrgan-x4plus&scale=4"
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(
            session.post(url, data=a_picture(256, 256), headers=PNG), name="asking"
        )
        await until(lambda: folders(server) != before)  # the work has begun
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: folders(server) == before)


async def test_previews_can_be_switched_off(serve: Callable[..., Server]) -> None:
    async with Api(serve(limits__preview_pixels="0")) as api:
        answer = await preview(api, a_picture())
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
