"""Requests that are made to do harm: each is refused, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from testkit.running import FAST_MODEL, Api, Server, a_picture
from upscaled.api import docs, download
from upscaled.cluster.content import BlobContent
from upscaled.jobs.content import FileContent

FORM = {"Content-Type": "multipart/form-data; boundary=b"}
BODY = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    + a_picture()
    + b"\r\n--b--\r\n"
)


@pytest.mark.parametrize("path", ["/upscale", "/estimate"])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("identity, gzip", gzip.compress(BODY)),
        ("br", BODY),
        ("zstd", BODY),
        ("anything", BODY),
    ],
)
async def test_a_compressed_body_is_refused(
    api: Api, server: Server, path: str, encoding: str, body: bytes
) -> None:
    answer = await api.post(path, data=body, headers={**FORM, "Content-Encoding": encoding})
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    assert answer.json["error"] == (
        f"The request body has the Content-Encoding {encoding!r}; send it uncompressed, "
        "without that header."
    )
    assert server.uploads() == []


async def test_an_identity_encoding_is_no_compression(api: Api) -> None:
    answer = await api.post(
        "/estimate", data=BODY, headers={**FORM, "Content-Encoding": "identity"}
    )
    assert answer.status == 200


@pytest.mark.parametrize(
    "parameter",
    [
        "boundary*=zlib'x'y",
        "boundary*=base64''b",
        "boundary*=idna''b",
        "boundary*0*=rot13''b",
        "boundary*=nosuchcodec''b",
        "boundary*=utf-8''b",
    ],
)
async def test_a_codec_that_a_boundary_names_is_not_looked_up(api: Api, parameter: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; {parameter}"}
    answer = await api.post("/upscale", data=BODY, headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert "names no usable boundary" in answer.json["error"]


async def test_addresses_that_do_not_exist_are_not_remembered(api: Api) -> None:
    for number in range(50):
        assert (await api.get(f"/docs/{number}-{'x' * 1000}")).status == 404
    assert docs._asset.cache_info().currsize <= len(docs._NAMES)


async def test_a_failure_after_the_answer_began_ends_the_connection(
    api: Api,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job_id = await api.completed()

    def failing_later(read: Any) -> Any:
        async def fails(content: Any, start: int, count: int) -> Any:
            if start:
                raise RuntimeError("a fault while sending")
            return await read(content, start, count)

        return fails

    monkeypatch.setattr(download, "CHUNK", 100)
    for content in (FileContent, BlobContent):
        monkeypatch.setattr(content, "read", failing_later(content.read))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    path = f"{server.config.server.api_prefix}/download/{job_id}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    received = b""
    while True:
        try:
            piece = await asyncio.wait_for(reader.read(65536), 20)
        except ConnectionError:
            break
        if not piece:
            break
        received += piece
    writer.close()
    assert received.count(b"HTTP/1.1") <= 1, received
    assert b"internal_error" not in received
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "request failed during the response"
    monkeypatch.undo()
    assert server.result_file(job_id).exists()
    assert (await api.get(f"/download/{job_id}")).status == 200


EMPTY = ["scale", "format", "tile_size", "width", "height", "tta", "precision", "quality",
         "lossless", "background", "keep_metadata"]  # fmt: skip


@pytest.mark.parametrize("blank", ["", " "])
async def test_an_empty_field_counts_as_not_given(api: Api, server: Server, blank: str) -> None:
    answer = await api.upscale(
        a_picture(), {"model_name": FAST_MODEL, **dict.fromkeys(EMPTY, blank)}
    )
    assert answer.status == 202, answer
    job = await server.ended(answer.json["job_id"])
    assert (job.request.scale, job.request.format) == (4, "png")


async def test_an_empty_field_that_is_not_known_is_still_refused(api: Api) -> None:
    answer = await api.upscale(a_picture(), {"sclae": ""})
    assert answer.status == 400
    answer = await api.upscale(None, {"scale": ""})
    assert "The field `image` is missing" in answer.json["error"]


async def test_a_blank_file_input_is_no_picture_in_an_estimate(api: Api) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("image", b"", filename="", content_type="application/octet-stream")
    form.add_field("input_width", "30")
    form.add_field("input_height", "20")
    form.add_field("scale", "")
    answer = await api.post("/estimate", data=form)
    assert answer.status == 200, answer
    assert answer.json["output_size"] == {"width": 120, "height": 80}


@pytest.mark.parametrize("prefix", ["/api/v1", "/below/a/path"])
async def test_the_page_is_found_with_a_slash_too(
    server: Server, serve: Callable[..., Server], prefix: str
) -> None:
    running = server if prefix == "/api/v1" else serve(server__api_prefix=prefix)
    async with Api(running) as api:
        answer = await api.call("GET", "/docs/", allow_redirects=False)
        assert (answer.status, answer.headers["location"]) == (301, "../docs")
        assert b"swagger-ui" in (await api.get("/docs/../docs")).body
