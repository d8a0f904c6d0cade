"""Refusals: one shape, the right status, a sentence that tells what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from testkit import contract
from testkit.running import FAST_MODEL, Api, Server, a_picture
from upscaled.api.submit import FIELD_NAMES

NOBODYS = "1234567890123456789"

REFUSALS: list[tuple[str, str, int, str]] = [
    ("GET", "/nowhere", 404, "not_found"),
    ("GET", f"/status/{NOBODYS}", 404, "unknown_job"),
    ("GET", "/status/1", 404, "unknown_job"),
    ("GET", "/status/..%2f..%2fetc", 404, "unknown_job"),
    ("GET", f"/download/{NOBODYS}", 404, "unknown_job"),
    ("POST", f"/cancel/{NOBODYS}", 404, "unknown_job"),
    ("GET", f"/receipt/{NOBODYS}", 404, "unknown_job"),
    ("GET", f"/events/{NOBODYS}", 404, "unknown_job"),
    ("GET", f"/webhooks/{NOBODYS}", 404, "unknown_job"),
    ("GET", f"/thumbnail/{NOBODYS}", 404, "unknown_job"),
    ("GET", f"/tiles/{NOBODYS}", 404, "unknown_job"),
    ("GET", f"/results?job_ids={NOBODYS}", 404, "unknown_job"),
    ("POST", f"/jobs/{NOBODYS}/retry", 404, "unknown_job"),
    ("GET", f"/uploads/{NOBODYS}", 404, "unknown_upload"),
    ("PATCH", "/archives", 405, "method_not_allowed"),
    ("POST", "/preview", 415, "unsupported_media_type"),
    ("POST", "/limits", 405, "method_not_allowed"),
    ("GET", "/jobs?limit=x", 400, "bad_request"),
    ("GET", "/models?scale=x", 400, "bad_request"),
    ("POST", "/upscale", 415, "unsupported_media_type"),
    ("POST", "/estimate", 400, "bad_request"),
    ("GET", "/upscale", 405, "method_not_allowed"),
    ("POST", "/health", 405, "method_not_allowed"),
    ("DELETE", f"/status/{NOBODYS}", 405, "method_not_allowed"),
    ("PUT", f"/download/{NOBODYS}", 405, "method_not_allowed"),
    ("GET", f"/cancel/{NOBODYS}", 405, "method_not_allowed"),
    ("PATCH", "/models", 405, "method_not_allowed"),
    ("POST", "/openapi.yaml", 405, "method_not_allowed"),
    ("POST", "/docs", 405, "method_not_allowed"),
    ("GET", "/docs/nothing.js", 404, "not_found"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSALS)
async def test_every_endpoint_refuses_in_the_one_shape(
    api: Api, method: str, path: str, status: int, code: str
) -> None:
    # The shape itself is asserted by the caller, for every answer in these tests.
    answer = await api.call(method, path)
    assert (answer.status, answer.json["code"]) == (status, code)


async def test_only_a_server_on_one_machine_takes_archives(api: Api, server: Server) -> None:
    answer = await api.get(f"/archives/{NOBODYS}")
    if server.config.cluster.used:
        assert (answer.status, answer.json["code"]) == (501, "archives_unsupported")
        assert answer.json["error"].startswith(
            "This server does not take archives: it is one of a "
        )
    else:
        assert (answer.status, answer.json["code"]) == (404, "unknown_archive")


def test_every_documented_path_is_refused_somewhere_above() -> None:
    refused = {path.split("?")[0].split("/")[1] for _, path, _, _ in REFUSALS}
    assert {path.split("/")[1] for path in contract.document()["paths"]} <= refused


async def test_a_wrong_method_names_the_right_ones(api: Api) -> None:
    answer = await api.call("DELETE", "/upscale")
    assert answer.headers["allow"] == "POST, PUT"
    assert answer.json["error"] == "DELETE is not allowed here; use POST, PUT."
    answer = await api.call("POST", "/health")
    assert answer.headers["allow"] == "GET, HEAD"


BAD_FIELDS: list[tuple[dict[str, str], str]] = [
    ({"scale": "5"}, "scale is '5'; it must be 2, 3 or 4"),
    ({"scale": "two"}, "scale is 'two'; it must be"),
    ({"format": "gif"}, "format is 'gif'; it must be png, jpg or webp"),
    ({"tile_size": "31"}, "tile_size is '31'; it must be 0 (automatic) or between 32 and 4096"),
    ({"tile_size": "-1"}, "tile_size is '-1'; it must be"),
    ({"sclae": "2"}, "There is no field 'sclae'; the fields are image, scale, model_name, format"),
    ({"model_name": "x" * 2000}, "The field 'model_name' is longer than 1024 bytes."),
    ({"model_name": "../models/realesrgan-x4plus"}, ""),
]


@pytest.mark.parametrize(("fields", "sentence"), BAD_FIELDS)
async def test_a_bad_field_is_named_with_what_is_allowed(
    api: Api, fields: dict[str, str], sentence: str
) -> None:
    answer = await api.upscale(a_picture(), fields)
    assert answer.status == 400
    assert sentence in answer.json["error"]


def test_the_contract_has_the_fields_that_the_service_takes() -> None:
    described = contract.document()["components"]["schemas"]["UpscaleRequest"]["properties"]
    assert set(described) == {"image", *FIELD_NAMES}


async def test_an_unknown_model_is_refused_by_its_own_code(api: Api) -> None:
    answer = await api.upscale(a_picture(), {"model_name": "nobody"})
    assert (answer.status, answer.json["code"]) == (400, "unknown_model")
    assert "realesrgan-x4plus" in answer.json["error"]


PICTURES: list[tuple[bytes | None, int, str]] = [
    (None, 400, "The field `image` is missing"),
    (b"", 400, "The picture is empty."),
    (b"not a picture at all", 415, ""),
    (b"\x89PNG\r\n\x1a\n" + b"junk" * 20, 422, ""),
]


@pytest.mark.parametrize(("picture", "status", "sentence"), PICTURES)
async def test_a_missing_or_unusable_picture_is_refused(
    api: Api, server: Server, picture: bytes | None, status: int, sentence: str
) -> None:
    answer = await api.upscale(picture)
    assert answer.status == status
    assert sentence in answer.json["error"]
    assert server.uploads() == []


async def test_a_request_that_is_no_multipart_is_told_what_to_send(api: Api) -> None:
    text = {"data": a_picture(), "headers": {"Content-Type": "text/plain"}}
    for options in ({"json": {"image": "x"}}, text):
        answer = await api.post("/upscale", **options)
        assert answer.status == 415
        assert answer.json["error"].startswith("Send the request as multipart/form-data")


BROKEN_BODIES: list[tuple[str, bytes, str]] = [
    ("", b"", "names no usable boundary"),
    ("; boundary=", b"", "names no usable boundary"),
    ("; boundary=" + "b" * 300, b"", "names no usable boundary"),
    ("; boundary=b", b"", "it ends before its closing boundary"),
    ("; boundary=b", b"--c\r\n\r\n\r\n--c--\r\n", "it ends before its closing boundary"),
    ("; boundary=b", b"--b\r\n", "it ends before its closing boundary"),
    ("; boundary=b", b"--bx\r\n\r\n\r\n--b--", "a boundary is not alone on its line"),
    ("; boundary=b", b"--b\r\n\r\n\r\n--b--", "no header `Content-Disposition"),
    ("; boundary=b", b"--b\r\nA: b\r\n\r\n\r\n--b--", "no header `Content-Disposition"),
    ("; boundary=b", b"--b\r\nA: " + b"b" * 9000 + b"\r\n\r\n\r\n--b--", "longer than 8192"),
    (
        "; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="scale"\r\n\r\n2',
        "it ends before its closing boundary",
    ),
    (
        "; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="scale"\r\n\r\n\xff\r\n--b--',
        "is not UTF-8 text",
    ),
    ("; boundary=b", b"--b--\r\n", "The field `image` is missing"),
]


@pytest.mark.parametrize(("parameters", "body", "sentence"), BROKEN_BODIES)
async def test_a_broken_body_is_a_bad_request(
    api: Api, server: Server, parameters: str, body: bytes, sentence: str
) -> None:
    headers = {"Content-Type": "multipart/form-data" + parameters}
    answer = await api.post("/upscale", data=body, headers=headers)
    assert answer.status == 400
    assert sentence in answer.json["error"]
    assert server.uploads() == []


@pytest.mark.parametrize("twice", ["image", "scale"])
async def test_a_doubled_field_is_refused(api: Api, server: Server, twice: str) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    for _ in range(2):
        form.add_field("image", a_picture(), filename="a.png") if twice == "image" else (
            form.add_field("scale", "2")
        )
    answer = await api.post("/upscale", data=form)
    assert answer.status == 400
    assert answer.json["error"] == f"The field '{twice}' was sent twice; send it once."
    assert server.uploads() == []


@pytest.mark.parametrize("image_first", [True, False])
async def test_the_fields_may_come_in_any_order(
    api: Api, server: Server, image_first: bool
) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    if image_first:
        form.add_field("image", a_picture(), filename="a.png")
    form.add_field("scale", "3")
    form.add_field("model_name", FAST_MODEL)
    if not image_first:
        form.add_field("image", a_picture(), filename="a.png")
    answer = await api.post("/upscale", data=form)
    assert answer.status == 202
    assert (await server.ended(answer.json["job_id"])).request.scale == 3


async def test_a_full_queue_says_when_to_come_back(serve: Callable[..., Server]) -> None:
    full = serve(limits__max_queue_size="1")
    async with Api(full) as api:
        jobs = [await api.accepted(a_picture(300, 300), model_name="realesrgan-x4plus")]
        while (answer := await api.upscale(a_picture())).status == 202:
            jobs.append(answer.json["job_id"])
            assert len(jobs) <= 3
        assert (answer.status, answer.json["code"]) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        for job_id in jobs:
            await api.post(f"/cancel/{job_id}")


async def test_a_full_queue_still_answers_from_the_cache(serve: Callable[..., Server]) -> None:
    full = serve(limits__max_queue_size="1", storage__result_cache_mb="10")
    known = {"model_name": FAST_MODEL, "wait": "30"}
    async with Api(full) as api:
        first = await api.upscale(a_picture(), known)
        assert (first.status, first.json["status"]) == (200, "completed")
        jobs = [await api.accepted(a_picture(300, 300), model_name="realesrgan-x4plus")]
        while (answer := await api.upscale(a_picture(310, 300))).status == 202:
            jobs.append(answer.json["job_id"])
            assert len(jobs) <= 3
        assert (answer.status, answer.json["code"]) == (503, "queue_full")
        again = await api.upscale(a_picture(), known)
        assert (again.status, again.json["status"]) == (200, "completed")
        assert (await api.get(f"/receipt/{again.json['job_id']}")).json["cached"] is True
        other = await api.upscale(a_picture(), {**known, "scale": "3"})
        assert (other.status, other.json["code"]) == (503, "queue_full")
        assert int(other.headers["retry-after"]) >= 1
        assert full.jobs_with_files() <= {*jobs, first.json["job_id"], again.json["job_id"]}
        for job_id in jobs:
            await api.post(f"/cancel/{job_id}")


async def test_submissions_beyond_the_rate_are_told_to_wait(serve: Callable[..., Server]) -> None:
    strict = serve(limits__rate_limit_per_minute="2")
    async with Api(strict) as api:
        assert [(await api.upscale(b"x")).status for _ in range(3)] == [415, 415, 429]
        answer = await api.upscale(b"x")
        assert answer.json["code"] == "rate_limited"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await api.get("/models")).status == 200


async def test_an_unexpected_failure_is_logged_and_not_shown(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = serve()

    async def fails(*_: Any) -> Any:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(broken.service.reports, "health", fails)
    async with Api(broken) as api:
        answer = await api.get("/health")
    assert (answer.status, answer.json["code"]) == (500, "internal_error")
    assert "secret" not in answer.json["error"]
    assert "the secret reason" in caplog.text
