"""Looking at pictures: thumbnails and tiles, which never count as downloads."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from testkit.contract import Answer
from testkit.running import Api, Server, a_picture
from testkit.waiting import until_in
from upscaled.callers import hash_of

MINE, YOURS = "my secret", "your secret"


def opened(answer: Answer) -> Image.Image:
    """Return the picture in an answer."""
    assert answer.status == 200, answer
    return Image.open(io.BytesIO(answer.body))


async def seen(api: Api, path: str) -> Image.Image:
    """Return a view once it is made, as a client does: it asks again when it is told to."""
    async with asyncio.timeout(60):
        while True:
            answer = await api.get(path)
            if answer.status != 503:
                return opened(answer)
            assert answer.json["code"] == "view_pending"
            # The pause that the server names; that it suffices is what is tested.
            await asyncio.sleep(int(answer.headers["retry-after"]))


async def whole(api: Api, job_id: str, side: str) -> Image.Image:
    """Return a picture put together from its tiles of level 0."""
    told = (await api.get(f"/tiles/{job_id}")).json
    size, step = told[side], told["tile_size"]
    picture = Image.new("RGBA", (size["width"], size["height"]))
    for row in range(-(-size["height"] // step)):
        for column in range(-(-size["width"] // step)):
            tile = await seen(api, f"/tiles/{job_id}/{side}/0/{column}/{row}")
            picture.paste(tile.convert("RGBA"), (column * step, row * step))
    return picture


async def test_limits_are_told_to_everybody(serve: Callable[..., Server]) -> None:
    shared = serve(server__auth_token="secret", limits__preview_pixels="0")
    async with Api(shared) as stranger:
        told = (await stranger.get("/limits")).json
    assert told["token_required"] is True
    assert told["preview"] is None
    assert told["max_upload_bytes"] == 200 << 20
    assert [row["name"] for row in told["output_formats"]] == ["png", "jpg", "webp"]
    assert {"name": "tiff", "label": "TIFF", "media_type": "image/tiff"}.items() <= next(
        row for row in told["input_formats"] if row["name"] == "tiff"
    ).items()


async def test_tiles_of_level_0_are_the_result_and_looking_deletes_nothing(
    api: Api, server: Server
) -> None:
    job_id = await api.completed(a_picture(300, 280))
    told = (await api.get(f"/tiles/{job_id}")).json
    assert told["source"] == {"width": 300, "height": 280, "levels": 1}
    assert told["result"] == {"width": 600, "height": 560, "levels": 2}
    looked = await whole(api, job_id, "result")
    small = await seen(api, f"/tiles/{job_id}/result/1/0/0")
    assert small.size == (300, 280)
    assert server.result_file(job_id).exists(), "looking is not downloading"
    result = opened(await api.get(f"/download/{job_id}"))
    assert np.array_equal(np.asarray(looked.convert("RGB")), np.asarray(result.convert("RGB")))
    mean = np.asarray(result.convert("RGB").reduce(2)).astype(int)
    assert np.abs(np.asarray(small.convert("RGB")).astype(int) - mean).mean() < 6


async def test_views_are_gone_with_the_result_and_its_source(api: Api, server: Server) -> None:
    job_id = await api.completed(a_picture(31, 17))
    await whole(api, job_id, "source")
    await seen(api, f"/thumbnail/{job_id}")
    assert "upload" in server.files_of(job_id)
    assert (await api.get(f"/download/{job_id}")).status == 200
    assert (await api.get(f"/download/{job_id}")).status == 410  # answered after the deletion
    assert not server.files_of(job_id)
    for path in (
        f"/tiles/{job_id}/source/0/0/0",
        f"/tiles/{job_id}/result/0/0/0",
        f"/thumbnail/{job_id}",
        f"/thumbnail/{job_id}?side=source",
    ):
        gone = await api.get(path)
        assert (gone.status, gone.json["code"]) == (404, "no_view"), path
    assert (await api.get(f"/tiles/{job_id}")).json == {
        "tile_size": 512,
        "source": None,
        "result": None,
    }


async def test_views_leave_no_file_behind(serve: Callable[..., Server]) -> None:
    shared = serve()
    async with Api(shared) as api:
        job_id = await api.completed()
        await whole(api, job_id, "source")
        await seen(api, f"/thumbnail/{job_id}")
        views = shared.data_dir / "views"
        assert await asyncio.to_thread(lambda: len(list(views.iterdir()))) == 2
        assert (await api.get(f"/download/{job_id}")).status == 200
        assert (await api.get(f"/download/{job_id}")).status == 410
        # Views follow the file by a moment; the next deletion waits for them.
        await api.call("DELETE", f"/jobs/{job_id}")
        assert not await asyncio.to_thread(lambda: list(views.iterdir()))


async def test_a_thumbnail_is_small_and_is_not_sent_twice(api: Api) -> None:
    job_id = await api.completed(a_picture(400, 100), scale="2")
    answer = await api.get(f"/thumbnail/{job_id}")
    assert opened(answer).size == (256, 64)
    assert answer.headers["content-type"] == "image/webp"
    again = await api.get(f"/thumbnail/{job_id}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert opened(await api.get(f"/thumbnail/{job_id}?side=source")).size == (256, 64)
    assert (await api.get(f"/thumbnail/{job_id}?side=both")).status == 400


async def test_transparency_is_shown_and_a_turned_tiff_too(api: Api) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(a_picture(40, 30)))).copy()
    alpha = np.full((30, 40, 1), 255, np.uint8)
    alpha[:, 20:] = 0
    see_through = Image.fromarray(np.concatenate((pixels, alpha), axis=2))
    file = io.BytesIO()
    see_through.save(file, "PNG")
    job_id = await api.completed(file.getvalue())
    source = await whole(api, job_id, "source")
    assert np.array_equal(np.asarray(source), np.asarray(see_through))
    result = await whole(api, job_id, "result")
    assert (np.asarray(result)[:, 60:, 3] == 0).all()

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo={274: 6})  # EXIF: turn it clockwise
    job_id = await api.completed(file.getvalue(), format="png")
    source = await whole(api, job_id, "source")
    turned = np.asarray(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(source.convert("RGB")), turned)


@pytest.mark.parametrize("place", ["0/1/0", "0/0/1", "1/0/0", "999999/0/0", "0/0/x", "0/0/-1"])
async def test_there_is_no_tile_beyond_the_picture(api: Api, place: str) -> None:
    job_id = await api.completed()
    answer = await api.get(f"/tiles/{job_id}/result/{place}")
    assert (answer.status, answer.json["code"]) == (404, "no_view")
    assert (await api.get(f"/tiles/{job_id}/middle/0/0/0")).status == 404


async def test_another_owners_pictures_look_like_none(serve: Callable[..., Server]) -> None:
    shared = serve(server__tokens=f"mine={hash_of(MINE)},yours={hash_of(YOURS)}")
    async with Api(shared, MINE) as mine, Api(shared, YOURS) as yours:
        job_id = await mine.completed()
        nobodys = await yours.get("/status/1234567890123456789")
        await whole(mine, job_id, "result")
        for path in (f"/tiles/{job_id}", f"/tiles/{job_id}/result/0/0/0", f"/thumbnail/{job_id}"):
            answer = await yours.get(path)
            assert (answer.status, answer.body) == (404, nobodys.body)


async def test_without_the_page_no_source_is_kept(serve: Callable[..., Server]) -> None:
    shared = serve(features__web="false")
    async with Api(shared) as api:
        job_id = await api.completed()
        # A worker of a cluster deletes the source a moment after the end.
        await until_in(shared, lambda: shared.files_of(job_id) == ["result.png"])
        told = (await api.get(f"/tiles/{job_id}")).json
    assert told["source"] is None
    assert told["result"] is not None


async def test_a_result_that_is_no_picture_any_more_is_told_once(api: Api, server: Server) -> None:
    job_id = await api.completed(a_picture(50, 20))
    await asyncio.to_thread(server.result_file(job_id).write_bytes, b"\x89PNG\r\n\x1a\n nonsense")
    answer = await api.get(f"/tiles/{job_id}/result/0/0/0")
    assert (answer.status, answer.json["code"]) == (404, "no_view")
    assert answer.json["error"].startswith("The picture can't be shown: ")


async def test_tiles_are_kept_within_their_bounds_and_cut_again_when_they_are_wanted(
    serve: Callable[..., Server],
) -> None:
    shared = serve(storage__view_cache_mb="16")
    views, jobs = shared.data_dir / "views", []
    async with Api(shared) as api:

        def kept() -> int:
            return sum(path.stat().st_size for path in views.glob("*.tiles"))

        for seed in range(2):  # each takes 9.5 MB as tiles
            pixels = np.random.default_rng(seed).integers(0, 256, (1500, 2000, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG", compress_level=0)
            file.seek(0)
            answer = await api.post(
                "/upscale?model_name=realesrgan-x4plus",
                data=file,
                headers={"Content-Type": "image/png"},
            )
            job_id = answer.json["job_id"]
            await api.post(f"/cancel/{job_id}")
            await shared.ended(job_id)
            jobs.append(job_id)
        first = await seen(api, f"/tiles/{jobs[0]}/source/0/1/1")
        alone = await asyncio.to_thread(kept)
        await seen(api, f"/tiles/{jobs[1]}/source/0/1/1")
        both = await asyncio.to_thread(kept)
        assert alone * 2 > 16 << 20
        assert alone / 2 < both <= 16 << 20
        assert len(await asyncio.to_thread(lambda: list(views.glob("*.tiles")))) == 1
        again = await seen(api, f"/tiles/{jobs[0]}/source/0/1/1")
        assert again.tobytes() == first.tobytes()
        assert await asyncio.to_thread(kept) <= 16 << 20
