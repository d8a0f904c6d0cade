"""All results as one archive, made while it is sent."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testkit.curl import curl
from testkit.running import Api, Server, a_picture
from upscaled.api import results_archive
from upscaled.api.zip_stream import UniqueNames
from upscaled.callers import hash_of


async def test_an_archive_has_the_pictures_and_counts_as_their_download(
    api: Api, server: Server
) -> None:
    jobs = [
        await api.completed(a_picture(20 + n, 16), filename=name)
        for n, name in enumerate(("cat.png", "cat.png", "../../dög.png"))
    ]
    expected = [await asyncio.to_thread(server.result_file(job).read_bytes) for job in jobs]
    path = f"/results?job_ids={','.join(jobs)}"
    kept = await api.get(path + "&keep=true")
    answer = await api.get(path)
    assert answer.headers["content-disposition"] == 'attachment; filename="upscaled.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as found:
        assert found.testzip() is None
        names = found.namelist()
        assert names == ["cat_2x.png", "cat_2x (2).png", "dög_2x.png"]
        assert [found.read(name) for name in names] == expected
    assert kept.body == answer.body
    for job_id in jobs:
        assert (await api.get(f"/download/{job_id}")).status == 410


async def _set(event: asyncio.Event) -> None:
    event.set()


@pytest.mark.parametrize("path", ["/download/{}", "/results?job_ids={}"])
async def test_nobody_else_gets_a_result_that_is_being_deleted(
    api: Api, server: Server, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await api.completed()
    jobs, let_go = server.service.jobs, asyncio.Event()
    real = jobs.delivered

    async def slow(*arguments: Any, **options: Any) -> None:
        await let_go.wait()
        await real(*arguments, **options)

    monkeypatch.setattr(jobs, "delivered", slow)
    whole = str(tmp_path / "whole")
    done = await curl("-fsS", "-o", whole, server.url + path.format(job_id))
    assert done.returncode == 0, done
    second = asyncio.create_task(api.get(f"/download/{job_id}"))
    ended, _ = await asyncio.wait({second}, timeout=0.3)
    assert not ended, "it waits until the result is deleted"
    await asyncio.wrap_future(server.call(_set(let_go)))
    assert (await second).status == 410


async def test_one_without_a_result_refuses_the_whole(api: Api, server: Server) -> None:
    done = await api.completed()
    working = await api.accepted(a_picture(800, 600), model_name="realesrgan-x4plus")
    answer = await api.get(f"/results?job_ids={done},{working}")
    assert (answer.status, answer.json["code"]) == (409, "wrong_state")
    await api.post(f"/cancel/{working}")
    assert (await api.get(f"/results?job_ids={done},1234567890123456789")).status == 404
    for query in ("", "?job_ids=", f"?job_ids={done},{done}", f"?job_ids={done}&keep=perhaps"):
        assert (await api.get("/results" + query)).status == 400, query
    assert server.result_file(done).exists()


async def test_an_archive_that_breaks_off_deletes_nothing(api: Api, server: Server) -> None:
    jobs = [await api.completed() for _ in range(2)]
    big = b"".join(hashlib.sha256(n.to_bytes(4)).digest() for n in range(2**17))
    for job_id in jobs:
        await asyncio.to_thread(server.result_file(job_id).write_bytes, big)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
    prefix = server.config.server.api_prefix
    writer.write(
        f"GET {prefix}/results?job_ids={','.join(jobs)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(20_000)
    writer.transport.abort()
    answer = await api.get(f"/results?job_ids={','.join(jobs)}")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [big, big]


async def test_anothers_results_are_not_there(serve: Callable[..., Server]) -> None:
    shared = serve(server__tokens=f"mine={hash_of('my')},yours={hash_of('your')}")
    async with Api(shared, "my") as mine, Api(shared, "your") as yours:
        job_id = await mine.completed()
        assert (await yours.get(f"/results?job_ids={job_id}")).status == 404


async def test_all_results_of_a_caller_make_one_archive_however_many(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_archive, "_PAGE", 2)
    server = serve(server__tokens=f"mine={hash_of('my')},yours={hash_of('your')}")
    async with Api(server, "my") as mine, Api(server, "your") as yours:
        nothing = await mine.get("/results?all=true")
        assert (nothing.status, nothing.json["code"]) == (404, "unknown_job")
        theirs = await yours.completed(filename="theirs.png")
        jobs = [await mine.completed(filename="mine.png") for _ in range(5)]
        await mine.get(f"/download/{jobs[1]}")  # what is gone is left out
        kept = await mine.get("/results?all=true&keep=true")
        taken = await mine.get("/results?all=true")
        for answer in (kept, taken):
            with zipfile.ZipFile(io.BytesIO(answer.body)) as found:
                assert found.testzip() is None
                assert found.namelist() == [
                    "mine_2x.png", "mine_2x (2).png", "mine_2x (3).png", "mine_2x (4).png"
                ]  # fmt: skip
        for job_id in jobs:
            status = (await mine.get(f"/status/{job_id}")).json
            assert status["result_gone"] == "downloaded"
        assert "result_gone" not in (await yours.get(f"/status/{theirs}")).json
        both = await mine.get(f"/results?all=true&job_ids={jobs[0]}")
        assert (both.status, both.json["code"]) == (400, "bad_request")


async def test_without_job_lists_nobody_gets_all_results(serve: Callable[..., Server]) -> None:
    async with Api(serve(features__job_lists="false")) as api:
        job_id = await api.completed()
        assert (await api.get("/results?all=true")).status == 404
        assert "result_gone" not in (await api.get(f"/status/{job_id}")).json


def test_names_differ_whatever_their_case() -> None:
    names = UniqueNames()
    assert [names.of(name) for name in ("a.png", "A.png", "a (2).png", "b", "b")] == [
        "a.png",
        "A (2).png",
        "a (2) (2).png",
        "b",
        "b (2)",
    ]
