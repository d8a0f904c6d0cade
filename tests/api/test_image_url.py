"""A picture that the server fetches from an address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from testkit.receiver import Received, Receiver, receiving
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.waiting import until

FIELDS = {"model_name": FAST_MODEL, "scale": "2"}
ON = {
    "features__image_url": "true",
    "outgoing__allow": "127.0.0.1",
    "outgoing__ports": "",
    "outgoing__timeout_seconds": "10",
}
PICTURE = a_picture()


def _answer(request: Received) -> web.Response:
    path = request.path.partition("?")[0]
    answers: dict[str, Callable[[], web.Response]] = {
        "/album/my%20photo.png": lambda: web.Response(body=PICTURE),
        "/moved": lambda: web.Response(status=302, headers={"Location": "/album/my%20photo.png"}),
        "/inside": lambda: web.Response(
            status=302, headers={"Location": "http://169.254.169.254/latest"}
        ),
        "/round": lambda: web.Response(status=301, headers={"Location": "/round"}),
        "/busy": lambda: web.Response(status=503),
        "/empty": web.Response,
        "/page": lambda: web.Response(text="<html>no picture</html>"),
        "/large": lambda: web.Response(body=bytes(2 << 20)),
        "/packed": lambda: web.Response(body=b"x", headers={"Content-Encoding": "gzip"}),
    }
    return answers.get(path, lambda: web.Response(status=404))()


@pytest.fixture
async def source() -> AsyncIterator[Receiver]:
    """A server of pictures."""
    async with receiving(_answer) as running:
        yield running


def base(source: Receiver) -> str:
    return f"http://127.0.0.1:{source.port}"


@pytest.fixture
def fetching(serve: Callable[..., Server]) -> Server:
    """A server that fetches pictures."""
    return serve(**ON, server__max_request_size_mb="1")


async def test_a_picture_is_fetched_and_upscaled(fetching: Server, source: Receiver) -> None:
    async with Api(fetching) as caller:
        for path in ("/album/my%20photo.png?x=1", "/moved"):
            answer = await caller.upscale(None, {**FIELDS, "image_url": base(source) + path})
            assert answer.status == 202, answer
            job = await fetching.ended(answer.json["job_id"])
            assert (job.state, str(job.input_size)) == ("completed", "24×16")
        assert job.input_name == "moved"
        download = await caller.get(f"/download/{job.id}")
        assert download.status == 200
    assert fetching.uploads() == []


async def test_the_result_is_named_after_the_address(fetching: Server, source: Receiver) -> None:
    async with Api(fetching) as caller:
        url = base(source) + "/album/my%20photo.png?signature=abc"
        query = f"?scale=2&model_name={FAST_MODEL}&wait=45"
        answer = await caller.upscale(None, {"image_url": url}, query=query)
        assert answer.status == 200
        download = await caller.get(f"/download/{answer.json['job_id']}")
        assert 'filename="my photo_2x.png"' in download.headers["content-disposition"]


async def test_in_the_query_it_needs_no_body(fetching: Server, source: Receiver) -> None:
    async with Api(fetching) as caller:
        query = f"?image_url={base(source)}/moved&scale=2&model_name={FAST_MODEL}"
        assert (await caller.post("/upscale" + query)).status == 202


async def test_it_is_off_by_default(api: Api, source: Receiver) -> None:
    answer = await api.upscale(None, {"image_url": base(source) + "/moved"})
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert "features.image_url" in answer.json["error"]
    assert source.requests == []


@pytest.mark.parametrize(
    ("address", "status", "code", "told"),
    [
        ("{base}/nowhere", 422, "image_url_unavailable", "It answered 404"),
        ("{base}/empty", 422, "image_url_unavailable", "empty"),
        ("{base}/page", 415, "unsupported_format", ""),
        ("{base}/large", 413, "too_large", "1 MiB"),
        ("{base}/busy", 502, "image_url_unreachable", "It answered 503"),
        ("{base}/packed", 502, "image_url_unreachable", "compressed"),
        ("{base}/round", 400, "bad_request", "more than 5 times"),
        ("{base}/inside", 400, "bad_request", "no public address"),
        ("http://127.0.0.2/", 400, "bad_request", "no public address"),
        ("http://localhost.localdomain@127.0.0.1/", 400, "bad_request", "user name"),
        ("file:///etc/passwd", 400, "bad_request", "must start with http"),
        ("http://127.0.0.1:{closed}/", 502, "image_url_unreachable", "no connection"),
    ],
)
async def test_what_cannot_be_fetched_is_told(
    fetching: Server, source: Receiver, address: str, status: int, code: str, told: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = address.format(base=base(source), closed=free.getsockname()[1])
        async with Api(fetching) as caller:
            answer = await caller.upscale(None, {**FIELDS, "image_url": url})
    assert (answer.status, answer.json["code"]) == (status, code), answer
    assert told in answer.json["error"]
    assert fetching.uploads() == [], "nothing is left behind"


async def test_picture_and_address_exclude_each_other(fetching: Server, source: Receiver) -> None:
    async with Api(fetching) as caller:
        answer = await caller.upscale(PICTURE, {"image_url": base(source) + "/moved"})
        assert (answer.status, "not both" in answer.json["error"]) == (400, True)
        assert (await caller.upscale(None, {})).status == 400
        put = await caller.call("PUT", "/upscale?image_url=http://127.0.0.1/", data=b"x")
        assert put.status == 400
    assert source.requests == []


async def test_a_source_that_is_silent_or_slow_is_given_up(
    serve: Callable[..., Server], source: Receiver
) -> None:
    server = serve(**{**ON, "outgoing__timeout_seconds": "0.3"})
    source.hold = asyncio.Event()
    async with Api(server) as caller:
        answer = await caller.upscale(None, {**FIELDS, "image_url": base(source) + "/moved"})
        assert (answer.status, answer.json["code"]) == (504, "image_url_timeout")
        assert await until(lambda: not server.service.submissions.uploading) is True


async def test_a_repetition_gets_its_job_though_the_address_has_expired(
    fetching: Server, source: Receiver
) -> None:
    async with Api(fetching) as caller:
        fields = {**FIELDS, "image_url": base(source) + "/moved"}
        headers = {"Idempotency-Key": "a-key"}
        first = await caller.upscale(None, fields, headers=headers)
        source.answer = lambda _: web.Response(status=403)
        again = await caller.upscale(None, fields, headers=headers)
        assert (again.status, again.json["job_id"]) == (202, first.json["job_id"])
        other = {**fields, "image_url": base(source) + "/other"}
        assert (await caller.upscale(None, other, headers=headers)).status == 422


async def test_the_original_is_the_fetched_picture(
    serve: Callable[..., Server], source: Receiver
) -> None:
    server = serve(**ON, limits__max_output_megapixels="0.01")
    async with Api(server) as caller:
        source.answer = lambda _: web.Response(body=a_picture(100, 100))
        answer = await caller.upscale(
            None, {**FIELDS, "image_url": base(source) + "/x.png", "on_timeout": "original"}
        )
        assert answer.body == a_picture(100, 100)
        assert answer.headers["upscaled-result"] == "original; reason=refused"


class SilentSource:
    """A source that sends the beginning of its answer, and keeps the connection open."""

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> SilentSource:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        await writer.drain()
        self.began.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the server closes the connection
        self.ended.set()
        writer.close()


async def test_a_caller_that_goes_away_ends_the_fetch(serve: Callable[..., Server]) -> None:
    server = serve(**{**ON, "outgoing__timeout_seconds": "60"})
    async with SilentSource() as source, Api(server) as caller:
        asking = asyncio.create_task(
            caller.upscale(None, {**FIELDS, "image_url": source.url}), name="ask"
        )
        await asyncio.wait_for(source.began.wait(), 30)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.wait_for(source.ended.wait(), 30)
    assert await until(lambda: server.uploads() == []) is True


async def test_a_server_that_stops_ends_the_fetch(serve: Callable[..., Server]) -> None:
    server = serve(**{**ON, "outgoing__timeout_seconds": "60"})
    async with SilentSource() as source, Api(server) as caller:
        asking = asyncio.create_task(
            caller.upscale(None, {**FIELDS, "image_url": source.url}), name="ask"
        )
        await asyncio.wait_for(source.began.wait(), 30)
        await asyncio.to_thread(server.stop_serving)
        answer = await asking
        assert (answer.status, answer.json["code"]) == (503, "shutting_down")
        await asyncio.wait_for(source.ended.wait(), 30)
    assert server.uploads() == []
