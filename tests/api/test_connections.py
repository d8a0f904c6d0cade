"""Connections: too many, too slow, and those that behave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from testkit.contract import Answer, validate
from testkit.running import Api, Server, a_picture
from testkit.waiting import until
from upscaled.api.responses import SECURITY_HEADERS


@contextlib.asynccontextmanager
async def connected(
    server: Server,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer_of(reader: asyncio.StreamReader) -> Answer:
    """Read an answer and the end of the connection."""
    head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    answer = Answer(int(status.split()[1]), headers, body)
    validate(answer.json, "/components/schemas/Error")
    return answer


async def test_more_connections_than_allowed_are_told_so(serve: Callable[..., Server]) -> None:
    small = serve(server__max_connections="2")
    async with connected(small), connected(small):
        for _ in range(3):
            async with connected(small) as (reader, _):
                refused = await answer_of(reader)
                assert (refused.status, refused.json["code"]) == (503, "too_many_connections")
                assert refused.headers["retry-after"] == "1"
    async with Api(small) as api:
        for _ in range(5):
            with contextlib.suppress(AssertionError):  # until the two have gone
                answer = await api.get("/models")
                break
        assert answer.status == 200


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (b"GET /api/v1/models HTTP/1.1\r\nAuthori zation: Bearer s3cret\r\n\r\n", "is not HTTP"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token: s3cret\x00\r\n\r\n", "is not HTTP"),
        (b"GET / HTTP/1.1\r\nX-Auth-Token: s3cret" + b"x" * 10_000 + b"\r\n\r\n", "too long"),
        (b"\x16\x03\x01s3cret\r\n\r\n", "is not HTTP"),
    ],
)
async def test_what_is_no_http_is_refused_in_the_one_shape_and_logged_without_its_content(
    server: Server, caplog: pytest.LogCaptureFixture, request_: bytes, sentence: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected(server) as (reader, writer):
        writer.write(request_)
        refused = await answer_of(reader)
    assert (refused.status, refused.json["code"]) == (400, "bad_request")
    assert sentence in refused.json["error"]
    assert refused.headers["content-type"] == "application/json; charset=utf-8"
    assert {name: refused.headers[name.lower()] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    (record,) = [record for record in caplog.records if record.msg == "malformed request refused"]
    assert record.levelno == logging.INFO
    logged = [json.dumps(vars(record), default=str) for record in caplog.records]
    assert not [line for line in [*logged, caplog.text] if "s3cret" in line]


async def test_headers_that_do_not_come_are_not_waited_for(serve: Callable[..., Server]) -> None:
    strict = serve(server__header_timeout_seconds="0.3")
    async with connected(strict) as (reader, writer):
        writer.write(b"GET /api/v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        slow = await answer_of(reader)
        assert (slow.status, slow.json["code"]) == (408, "request_timeout")
        assert slow.json["error"] == "The request's headers did not come within 0.3 s."
    async with connected(strict) as (reader, _):
        assert await asyncio.wait_for(reader.read(), 20) == b"", "nothing asked, nothing answered"


async def test_a_kept_connection_may_rest_but_not_dawdle(serve: Callable[..., Server]) -> None:
    strict = serve(server__header_timeout_seconds="0.3")
    request = b"GET /api/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connected(strict) as (reader, writer):
        for rest in (0.5, 0):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200")
            length = next(line for line in head.split("\r\n") if line.startswith("Content-Length"))
            await reader.readexactly(int(length.partition(": ")[2]))
            await asyncio.sleep(rest)  # longer than headers may take: such a rest is allowed
        writer.write(request[:20])
        assert (await answer_of(reader)).status == 408


async def test_a_body_that_does_not_come_is_not_waited_for(serve: Callable[..., Server]) -> None:
    strict = serve(server__body_timeout_seconds="0.3")
    async with connected(strict) as (reader, writer):
        writer.write(
            b"POST /api/v1/upscale HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode()
        assert head.startswith("HTTP/1.1 408")
        writer.transport.abort()
    await until(lambda: not strict.uploads())


async def test_a_slow_but_steady_body_is_taken(serve: Callable[..., Server]) -> None:
    patient = serve(server__body_timeout_seconds="5")
    picture = a_picture()
    body = (
        b"--b\r\nContent-Disposition: form-data; name=model_name\r\n\r\nrealesr-animevideov3\r\n"
        b"--b\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\n"
        + picture
        + b"\r\n--b--\r\n"
    )
    async with connected(patient) as (reader, writer):
        writer.write(
            b"POST /api/v1/upscale HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        for start in range(0, len(body), 50):
            writer.write(body[start : start + 50])
            await asyncio.sleep(0.001)  # else TCP joins the pieces, and the body is not slow
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 202")


async def test_an_upload_that_the_disk_would_not_hold_is_refused_before_it_comes(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = serve()
    usage = SimpleNamespace(total=1 << 30, used=1 << 30, free=(64 << 20) + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    async with Api(full) as api:
        refused = await api.upscale(a_picture())
        assert (refused.status, refused.json["code"]) == (507, "insufficient_storage")
        assert refused.json["error"].startswith("The server's disk has 0 MiB free for uploads")
        monkeypatch.undo()
        assert (
            await api.upscale(a_picture(), {"model_name": "realesr-animevideov3"})
        ).status == 202


async def test_health_says_that_a_stopping_server_is_draining(serve: Callable[..., Server]) -> None:
    stopping = serve()
    stopping.service.submissions.close()
    async with Api(stopping) as api:
        health = await api.get("/health")
        assert (health.status, health.json["status"]) == (503, "draining")
        assert (await api.upscale(a_picture())).json["code"] == "shutting_down"
