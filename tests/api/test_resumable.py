"""Uploads that continue after a lost connection: `/uploads`, and the field `upload`."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.contract import Answer
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.waiting import until
from upscaled.callers import LOCAL, hash_of
from upscaled.errors import QueueFullError

BYTES = {"Content-Type": "application/octet-stream"}
FAST = {"model_name": FAST_MODEL, "scale": "2"}


async def begun(api: Api, length: int, filename: str = "photo.png") -> str:
    """Announce a picture; return its upload's path below the prefix."""
    answer = await api.post(f"/uploads?filename={filename}", headers={"Upload-Length": str(length)})
    assert answer.status == 201, answer
    assert answer.headers["location"] == answer.json["upload_url"]
    assert (answer.json["offset"], answer.json["length"]) == (0, length)
    return f"/uploads/{answer.json['upload_id']}"


async def sent(api: Api, path: str, offset: int, content: bytes) -> Answer:
    """Send bytes of an upload."""
    headers = {**BYTES, "Upload-Offset": str(offset)}
    return await api.call("PATCH", path, data=io.BytesIO(content), headers=headers)


async def submitted(api: Api, path: str, **options: object) -> Answer:
    """Make a job of an upload."""
    return await api.upscale(None, {**FAST, "upload": path.rpartition("/")[2]}, **options)  # type: ignore[arg-type]


async def test_a_picture_in_pieces_becomes_the_job_it_is_as_a_whole(api: Api) -> None:
    picture = a_picture(80, 60)
    path = await begun(api, len(picture), "in pieces.png")
    half = len(picture) // 2
    answer = await sent(api, path, 0, picture[:half])
    assert (answer.status, answer.json["offset"]) == (200, half)
    early = await submitted(api, path)
    assert (early.status, early.json["code"]) == (409, "upload_incomplete")
    assert early.json["error"] == (
        f"The upload has {half} of {len(picture)} bytes; send the rest to its address first."
    )
    head = await api.call("HEAD", path)
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == (
        str(half),
        str(len(picture)),
    )
    assert (await sent(api, path, half, picture[half:])).json["offset"] == len(picture)
    answer = await submitted(api, path)
    assert answer.status == 202, answer
    await api.server.ended(answer.json["job_id"])
    status = (await api.get(f"/status/{answer.json['job_id']}")).json
    assert (status["status"], status["filename"]) == ("completed", "in pieces.png")
    receipt = (await api.get(f"/receipt/{answer.json['job_id']}")).json
    whole = await api.completed(picture)
    assert receipt["output"] == (await api.get(f"/receipt/{whole}")).json["output"]
    assert (await api.get(path)).status == 404
    assert not api.server.uploads()


async def test_a_broken_connection_leaves_what_has_come(api: Api) -> None:
    content = os.urandom(4 << 20)
    path = await begun(api, len(content))
    cut = (2 << 20) + 12345
    _, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        f"PATCH {api.server.config.server.api_prefix}{path} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{api.server.port}\r\nContent-Type: application/octet-stream\r\n"
        f"Upload-Offset: 0\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content[:cut]
    )
    await writer.drain()
    (file,) = await arrived(api.server)
    await until(lambda: file.stat().st_size >= cut - (256 << 10))
    writer.transport.abort()

    async def offset() -> int:
        return int((await api.call("HEAD", path)).headers["upload-offset"])

    at = await offset()
    assert cut - (512 << 10) <= at <= cut
    assert file.read_bytes()[:at] == content[:at]
    answer = await sent(api, path, at, content[at:])
    assert (answer.status, answer.json["offset"]) == (200, len(content))
    assert file.read_bytes() == content
    assert (await api.call("DELETE", path)).status == 204
    assert not api.server.uploads()


async def arrived(server: Server) -> list[Path]:
    """Wait until an upload has a file."""
    await until(lambda: bool(server.uploads()))
    return server.uploads()


async def test_a_connection_that_seems_alive_is_overtaken(api: Api) -> None:
    content = os.urandom(1 << 20)
    path = await begun(api, len(content))
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    head = (
        f"PATCH {api.server.config.server.api_prefix}{path} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{api.server.port}\r\nContent-Type: application/octet-stream\r\n"
        f"Upload-Offset: 0\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content[: 300 << 10])
    await writer.drain()
    await arrived(api.server)
    at = int((await api.call("HEAD", path)).headers["upload-offset"])
    assert (await sent(api, path, at, content[at:])).json["offset"] == len(content)
    # What the first connection still sends changes nothing, and it is told so.
    writer.write(b"x" * (len(content) - (300 << 10)))
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 409")
    writer.close()
    (file,) = api.server.uploads()
    assert file.read_bytes() == content
    await api.call("DELETE", path)


async def test_wrong_offsets_and_lengths_are_refused_with_a_sentence(api: Api) -> None:
    path = await begun(api, 100)
    wrong = await sent(api, path, 7, b"12345")
    assert (wrong.status, wrong.json["code"]) == (409, "upload_offset")
    assert wrong.headers["upload-offset"] == "0"
    assert wrong.json["error"] == (
        "The upload continues at byte 0; send from there, by one request at a time."
    )
    surplus = await sent(api, path, 0, bytes(101))
    assert surplus.status == 400
    assert surplus.json["error"] == "The upload is longer than its Upload-Length of 100 bytes."

    async def chunked() -> object:
        yield bytes(60)
        yield bytes(60)

    streamed = await api.call(
        "PATCH", path, data=chunked(), headers={**BYTES, "Upload-Offset": "0"}
    )
    assert streamed.status == 400
    without = await api.call("PATCH", path, data=b"1", headers=BYTES)
    assert without.json["error"] == (
        "The header Upload-Offset must come once, with the byte at which the body continues the "
        "upload."
    )
    empty = await api.call("PATCH", path, headers={**BYTES, "Upload-Offset": "0"})
    assert (empty.status, empty.json["code"]) == (400, "bad_request")
    assert empty.json["error"].startswith("The request has no body; send the bytes")
    form = await api.call("PATCH", path, data={"a": "b"}, headers={"Upload-Offset": "0"})
    assert form.status == 415
    most = api.server.config.server.max_request_size_mb << 20
    for length, status in (("", 400), ("0", 400), ("many", 400), (str(most + 1), 413)):
        refused = await api.post("/uploads", headers={"Upload-Length": length})
        assert refused.status == status, refused
    await api.call("DELETE", path)
    for method in ("GET", "DELETE"):
        assert (await api.call(method, path)).json["code"] == "unknown_upload"


async def test_a_refused_submission_keeps_the_upload_and_a_repetition_needs_none(api: Api) -> None:
    picture = a_picture(50, 40)
    path = await begun(api, len(picture))
    await sent(api, path, 0, picture)
    upload = path.rpartition("/")[2]
    refused = await api.upscale(None, {**FAST, "upload": upload, "scale": "9"})
    assert refused.status == 400
    both = await api.upscale(picture, {**FAST, "upload": upload})
    assert both.json["error"] == "Give either image or upload, not both."
    key = {"Idempotency-Key": "of an upload"}
    query = f"?model_name={FAST_MODEL}&scale=2&upload={upload}"
    first = await api.post("/upscale" + query, headers=key)
    assert first.status == 202, first
    again = await api.post("/upscale" + query, headers=key)
    assert (again.status, again.body) == (202, first.body)
    gone = await api.post("/upscale" + query)
    assert (gone.status, gone.json["code"]) == (404, "unknown_upload")
    await api.server.ended(first.json["job_id"])
    assert not api.server.uploads()


async def test_uploads_belong_to_their_token_and_end_when_nobody_continues_them(
    serve: Callable[..., Server],
) -> None:
    server = serve(
        server__tokens=f"one={hash_of('first')},two={hash_of('second')}",
        storage__upload_ttl_minutes="1",
    )
    async with Api(server, "first") as api, Api(server, "second") as other:
        path = await begun(api, 10)
        await sent(api, path, 0, b"12345")
        for method in ("GET", "DELETE"):
            assert (await other.call(method, path)).status == 404
        assert (await sent(other, path, 5, b"67890")).status == 404
        resumable = server.service.submissions.resumable
        await asyncio.wrap_future(server.call(resumable.expire(time.monotonic() + 50)))
        assert (await api.get(path)).json["offset"] == 5
        await asyncio.wrap_future(server.call(resumable.expire(time.monotonic() + 70)))
        gone = await api.get(path)
        assert gone.json["error"].endswith(
            "One that nobody continues is deleted after 1 minutes, and when the server restarts."
        )
        assert not server.uploads()


async def test_there_are_only_so_many_and_an_idle_one_does_not_keep_the_server_busy(
    serve: Callable[..., Server],
) -> None:
    server = serve(limits__max_queue_size="3")
    async with Api(server) as api:
        paths = [await begun(api, 10) for _ in range(3)]
        full = await api.post("/uploads", headers={"Upload-Length": "10"})
        assert (full.status, full.json["code"]) == (503, "queue_full")
        assert "There are 3 unfinished uploads" in full.json["error"]
        assert server.service.submissions.is_idle
        # A whole picture still goes in.
        await api.completed()
        for path in paths:
            await api.call("DELETE", path)
        await begun(api, 10)


async def test_an_upload_reserves_its_bytes_on_the_disk(api: Api) -> None:
    room = api.server.service.submissions.resumable
    with pytest.raises(QueueFullError):
        for _ in range(1000):
            await asyncio.wrap_future(api.server.call(room.begin(LOCAL, 5 << 20, "")))
    held = [upload for upload in room._uploads.values() if upload.length == 5 << 20]
    assert sum(upload.room.outstanding for upload in held) == len(held) * (5 << 20)
    for upload in held:
        await asyncio.wrap_future(api.server.call(room.end(upload.id, LOCAL)))
