"""Bodies that are broken in every way: each gets its refusal, none gets the server down."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testkit.running import Api, Server, a_picture
from upscaled.api import multipart
from upscaled.api.multipart import Part
from upscaled.errors import BadRequestError

BOUNDARY = b"b0undary"
NAMES = st.sampled_from(["image", "scale", "model_name", "format", "sclae", "", 'a"b', "../x", "ü"])
CONTENTS = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(
        [b"2", b"png", b"realesr-animevideov3", a_picture(), b"\r\n--b0undary", b"\r\n-"]
    ),
)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """Return one well-formed part."""
    said = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    head = f"Content-Disposition: {said}\r\n\r\n".encode()
    return b"--" + BOUNDARY + b"\r\n" + head + content + b"\r\n"


PARTS = st.builds(part, NAMES, CONTENTS, st.none() | st.text(max_size=20))
WHOLE = st.lists(PARTS, max_size=6).map(
    lambda parts: b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"
)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """Return a body with some bytes cut out, doubled or changed."""
    body = bytearray(draw(WHOLE))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(body)))
        stop = min(len(body), start + draw(st.integers(0, 12)))
        body[start:stop] = draw(st.sampled_from([b"", b"\r\n", b"--", bytes(body[start:stop]) * 2]))
    return bytes(body)


async def chunks(body: bytes, cuts: Sequence[int]) -> AsyncIterator[bytes]:
    """Yield ``body`` in pieces."""
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, stop in itertools.pairwise(places):
        yield body[start:stop]


async def parsed(body: bytes, cuts: Sequence[int]) -> list[tuple[Part, bytes]] | str:
    """Return the parts with their contents, or the refusal."""
    found: list[tuple[Part, bytearray]] = []
    try:
        async for event in multipart.parts(chunks(body, cuts), BOUNDARY):
            if isinstance(event, Part):
                found.append((event, bytearray()))
            else:
                found[-1][1].extend(event)
    except BadRequestError as error:
        return error.message
    return [(part, bytes(content)) for part, content in found]


@settings(max_examples=300)
@given(broken(), st.lists(st.integers(0, 10_000), max_size=8))
def test_how_a_body_is_cut_up_on_its_way_changes_nothing(body: bytes, cuts: list[int]) -> None:
    assert asyncio.run(parsed(body, [])) == asyncio.run(parsed(body, cuts))


@settings(max_examples=200)
@given(st.binary(max_size=400), st.text(max_size=60))
def test_any_bytes_under_any_content_type_are_parsed_or_refused(body: bytes, type_: str) -> None:
    asyncio.run(parsed(body, []))
    try:
        multipart.boundary_of(f"multipart/form-data; {type_}")
    except BadRequestError as error:
        assert error.message.endswith(".")


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=broken(), length=st.integers(-20, 20) | st.just(0))
async def test_the_server_answers_every_body(server: Server, body: bytes, length: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        f"POST /api/v1/upscale HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
        f"Content-Length: {max(0, len(body) + length)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    if length > 0:
        writer.write_eof()  # more will not come; the server takes it for the end of it all
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.transport.abort()
    # A body that is shorter than it says is no request: the connection just ends.
    assert not answer or answer.split()[1] in {b"202", b"400", b"415", b"422"}, answer
    assert answer or length > 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"".join(part(f"f{n}", b"x") for n in range(10_000)), "There is no field 'f0'"),
        (part("scale", b"2") * 10_000, "The field 'scale' was sent twice; send it once."),
        (part("image", b"") + b"--b0undary--\r\n", "The picture is empty."),
        (part("scale", b"x" * 5000), "The field 'scale' is longer than 1024 bytes."),
        (b"--b0undary\r\n" + b"X: y\r\n" * 5000, "A part's headers are longer than 8192 bytes."),
        (b"--b0undary\r\nContent-Type: image/png\r\n\r\nx\r\n--b0undary--", "a part has no header"),
        (b"no boundary at all", "it ends before its closing boundary."),
        (b"", "it ends before its closing boundary."),
    ],
)
async def test_a_body_that_is_wrong_in_a_known_way_gets_its_sentence(
    api: Api, server: Server, body: bytes, told: str
) -> None:
    type_ = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    answer = await api.post("/upscale", data=body, headers={"Content-Type": type_})
    assert answer.status == 400
    assert told in answer.json["error"]
    assert server.uploads() == []


async def test_a_picture_without_a_file_name_is_a_picture(api: Api, server: Server) -> None:
    body = part("image", a_picture()) + part("model_name", b"realesr-animevideov3")
    answer = await api.post(
        "/upscale",
        data=body + b"--b0undary--\r\n",
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"},
    )
    assert answer.status == 202
    job = await server.ended(answer.json["job_id"])
    assert job.error is None
    head = await api.call("HEAD", f"/download/{job.id}")
    assert head.headers["content-disposition"] == 'attachment; filename="image_4x.png"'
