"""Downloads: whole, by ranges, broken off and continued."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.curl import curl
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.waiting import until_in
from upscaled.api.context import TRANSFERS
from upscaled.api.download import disposition


async def big_result(server: Server, api: Api) -> tuple[str, bytes]:
    """Return the id of a completed job and its result, several MB long.

    No fast model makes that much of a small picture, so the file is replaced by a longer one.
    """
    job_id = await api.completed()
    content = b"".join(hashlib.sha256(n.to_bytes(4)).digest() for n in range(2**17))
    path = server.result_file(job_id)
    await asyncio.to_thread(path.write_bytes, content)
    return job_id, content


async def read_a_little(server: Server, job_id: str, headers: str = "") -> bytes:
    """Begin a download, read its beginning, break the connection off; return what came.

    The server has noticed it when this returns.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    path = f"{server.config.server.api_prefix}/download/{job_id}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    got = await reader.readexactly(20_000)
    writer.transport.abort()
    transfers = server.app[TRANSFERS]._by_job
    await until_in(server, lambda: transfers[job_id]._perhaps)
    return got


async def test_a_broken_download_deletes_nothing_and_can_be_begun_again(
    api: Api, server: Server
) -> None:
    job_id, content = await big_result(server, api)
    for _ in range(3):
        assert content.startswith(await read_a_little(server, job_id))
    assert server.result_file(job_id).exists()

    whole = await api.get(f"/download/{job_id}")
    assert whole.body == content
    assert (await api.get(f"/download/{job_id}")).status == 410
    assert not server.result_file(job_id).exists()


async def test_segments_after_a_broken_download_are_all_needed(api: Api, server: Server) -> None:
    job_id, content = await big_result(server, api)
    await read_a_little(server, job_id)
    size = len(content)
    last = await api.get(f"/download/{job_id}", headers={"Range": f"bytes=20000-{size - 1}"})
    assert last.body == content[20_000:]
    assert server.result_file(job_id).exists(), "the first segment was not fetched yet"
    first = await api.get(f"/download/{job_id}", headers={"Range": "bytes=0-19999"})
    assert first.body == content[:20_000]
    assert (await api.get(f"/download/{job_id}")).status == 410


async def test_curl_completes_a_broken_download_to_the_same_bytes(
    api: Api, server: Server, tmp_path: Path
) -> None:
    job_id, content = await big_result(server, api)
    target = tmp_path / "result.png"
    target.write_bytes(await read_a_little(server, job_id))
    done = await curl("-sS", "-C", "-", "-o", str(target), f"{server.url}/download/{job_id}")
    assert done.returncode == 0, done
    assert target.read_bytes() == content
    assert (await api.get(f"/download/{job_id}")).status == 410


async def test_a_result_goes_when_the_last_of_its_ranges_was_fetched(
    api: Api, server: Server
) -> None:
    job_id = await api.completed()
    path = f"/download/{job_id}"
    head = await api.call("HEAD", path)
    size = int(head.headers["content-length"])
    assert head.headers["accept-ranges"] == "bytes"

    etag = head.headers["etag"]
    last = await api.get(path, headers={"Range": "bytes=-50", "If-Range": etag})
    first = await api.get(path, headers={"Range": f"bytes=0-{size - 52}"})
    assert (last.status, first.status) == (206, 206)
    assert last.headers["content-range"] == f"bytes {size - 50}-{size - 1}/{size}"
    assert server.result_file(job_id).exists(), "one byte was not fetched yet"
    middle = await api.get(path, headers={"Range": f"bytes={size - 51}-{size - 51}"})
    assert len(first.body + middle.body + last.body) == size
    assert (await api.get(path)).status == 410


async def test_asking_for_the_head_or_for_nothing_deletes_nothing(api: Api, server: Server) -> None:
    job_id = await api.completed()
    path = f"/download/{job_id}"
    size = int((await api.call("HEAD", path)).headers["content-length"])
    outside = await api.get(path, headers={"Range": f"bytes={size}-"})
    assert (outside.status, outside.json["code"]) == (416, "range_not_satisfiable")
    assert outside.headers["content-range"] == f"bytes */{size}"
    assert server.result_file(job_id).exists()


async def test_every_answer_carries_the_digest_of_the_whole(api: Api, server: Server) -> None:
    job_id = await api.completed()
    path = f"/download/{job_id}"
    content = await asyncio.to_thread(server.result_file(job_id).read_bytes)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    part = {"Range": "bytes=3-9"}
    for answer in (await api.call("HEAD", path), await api.get(path, headers=part)):
        assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"


async def test_a_range_of_another_version_is_answered_with_the_whole(api: Api) -> None:
    job_id = await api.completed()
    other = {"Range": "bytes=10-", "If-Range": '"another"'}
    answer = await api.get(f"/download/{job_id}", headers=other)
    assert answer.status == 200
    assert answer.body.startswith(b"\x89PNG")


async def test_results_stay_where_the_settings_say_so(serve: Callable[..., Server]) -> None:
    keeping = serve(storage__delete_after_download="false")
    async with Api(keeping) as api:
        job_id = await api.completed()
        first = await api.get(f"/download/{job_id}")
        assert (await api.get(f"/download/{job_id}")).body == first.body


async def test_of_many_callers_at_once_one_at_least_gets_it_and_none_gets_half(
    api: Api, server: Server
) -> None:
    job_id, content = await big_result(server, api)
    answers = await asyncio.gather(*(api.get(f"/download/{job_id}") for _ in range(8)))
    assert {answer.status for answer in answers} <= {200, 410}
    assert any(answer.status == 200 for answer in answers)
    assert all(answer.body == content for answer in answers if answer.status == 200)
    assert (await api.get(f"/download/{job_id}")).status == 410


async def test_a_result_that_vanished_from_the_disk_breaks_no_server(
    serve: Callable[..., Server],
) -> None:
    damaged = serve()
    async with Api(damaged) as api:
        job_id = await api.completed()
        damaged.result_file(job_id).unlink()
        gone = await api.get(f"/download/{job_id}")
        assert (gone.status, gone.json["code"]) == (410, "expired")
        assert gone.json["error"].startswith("The result is no longer on the server's disk")
        assert (await api.get("/health")).json["status"] == "ok"


@pytest.mark.parametrize("name", ["Größe 😀.png", "a b'c.png", "..\\..\\x.png", 'q"u.png'])
async def test_curl_saves_the_result_under_the_name_of_the_upload(
    api: Api, server: Server, tmp_path: Path, name: str
) -> None:
    job_id = await api.completed(a_picture(), filename=name)
    done = await curl("-sS", "-OJ", f"{server.url}/download/{job_id}", cwd=tmp_path)
    assert done.returncode == 0, done
    (saved,) = tmp_path.iterdir()
    assert saved.name.endswith("_2x.png")
    assert saved.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "saved_as"),
    [("x" * 251 + ".png", "x" * 200 + "_2x.png"), ("é" * 4000 + ".png", "é" * 100 + "_2x.png")],
)
async def test_a_name_too_long_to_be_saved_is_cut(
    api: Api, server: Server, name: str, saved_as: str
) -> None:
    head = f'Content-Disposition: form-data; name="image"; filename="{name}"'
    model = f'Content-Disposition: form-data; name="model_name"\r\n\r\n{FAST_MODEL}'
    scale = 'Content-Disposition: form-data; name="scale"\r\n\r\n2'
    form = f"--b\r\n{model}\r\n--b\r\n{scale}\r\n--b\r\n{head}\r\n\r\n".encode()
    answer = await api.post(
        "/upscale",
        data=form + a_picture() + b"\r\n--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert answer.status == 202, answer
    job = await server.ended(answer.json["job_id"])
    assert len(job.input_name.encode()) <= 255
    result = await api.call("HEAD", f"/download/{job.id}")
    assert result.headers["content-disposition"] == disposition(saved_as)
    assert len(saved_as.encode()) <= 255


async def test_a_shortage_of_open_files_delays_a_download_and_is_no_fault(
    api: Api, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, whole = await big_result(server, api)

    def short(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("upscaled.jobs.content.FileContent._open", short)
        refused = await api.get(f"/download/{job_id}")
    assert refused.status == 503
    assert refused.headers["retry-after"] == "5"
    assert "try again" in refused.json["error"]
    given = await api.get(f"/download/{job_id}")
    assert (given.status, given.body) == (200, whole)
