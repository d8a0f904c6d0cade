"""Uploads that go wrong on the way, and the parser they pass."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit.running import Api, Server, a_picture
from testkit.waiting import until
from upscaled.api.multipart import Part, boundary_of, parts
from upscaled.errors import BadRequestError
from upscaled.jobs.workspace import Workspace


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def parsed(body: bytes, size: int = 7) -> list[tuple[Part, bytes]]:
    found: list[tuple[Part, bytes]] = []
    async for event in parts(pieces(body, size), b"b"):
        if isinstance(event, Part):
            found.append((event, b""))
        else:
            part, content = found[-1]
            found[-1] = (part, content + event)
    return found


def encoded(contents: list[bytes]) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="n"; filename="f"\r\n\r\n'
    return b"".join(head + content + b"\r\n" for content in contents) + b"--b--\r\n"


# Made of what could be taken for a delimiter or a part of one.
LOOK_ALIKES = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"b", b"x"])).map(
    b"".join
)


@given(st.lists(LOOK_ALIKES.filter(lambda c: b"\r\n--b" not in b"\r\n" + c)), st.integers(1, 99))
def test_any_content_comes_out_as_it_went_in_however_it_is_cut(
    contents: list[bytes], size: int
) -> None:
    # A content that holds the delimiter itself would be its sender's mistake.
    got = asyncio.run(parsed(encoded(contents), size))
    assert [content for _, content in got] == contents


@given(st.binary(max_size=300), st.integers(1, 99))
def test_arbitrary_bytes_are_parsed_or_refused(body: bytes, size: int) -> None:
    for text in (body, b"--b\r\n" + body, encoded([])[:-2] + body):
        try:
            asyncio.run(parsed(text, size))
        except BadRequestError as error:
            assert error.message.endswith(".")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ('form-data; name="image"; filename="a.png"', Part("image", "a.png")),
        ("form-data; name=image", Part("image", None)),
        ('Form-Data; NAME="image" ; filename=""', Part("image", "")),
        (r'form-data; name="i"; filename="a\"b.png"', Part("i", 'a"b.png')),
        ('form-data; name="i"; filename="a%22b.png"', Part("i", 'a"b.png')),
        (r'form-data; name="i"; filename="C:\x\y.png"', Part("i", r"C:\x\y.png")),
        ('form-data; name="i"; filename="größe.png"', Part("i", "größe.png")),
        (
            'form-data; name="i"; filename="x"; filename*=UTF-8\'\'gr%C3%B6%C3%9Fe.png',
            Part("i", "größe.png"),
        ),
        ('form-data; name="i"; filename="a; name=b"', Part("i", "a; name=b")),
        ("form-data; name=\"i\"; filename*=iso-8859-1'de'gr%F6%DFe.png", Part("i", "größe.png")),
        (
            'form-data; name="i"; filename="x"; filename*=zlib\'\'gr%F6%DFe.png',
            Part("i", "x"),
        ),
        ('form-data; name="i"; filename="gr%C3%B6%C3%9Fe.png"', Part("i", "größe.png")),
        ('form-data; name="i"; filename="100%25.png"', Part("i", "100%25.png")),
        ('form-data; name="i"; filename="100%F6.png"', Part("i", "100%F6.png")),
        ('form-data; name="i"; filename="=?UTF-8?B?Z3LDtsOfZS5wbmc=?="', Part("i", "größe.png")),
        (
            'form-data; name="i"; filename="=?utf-8?Q?gr=C3=B6=C3=9Fe_1.png?="',
            Part("i", "größe 1.png"),
        ),
        (
            'form-data; name="i"; filename="=?iso-8859-1?Q?gr=F6?= =?UTF-8?B?w59lLnBuZw?="',
            Part("i", "größe.png"),
        ),
        ('form-data; name="i"; filename="=?idna?Q?x?="', Part("i", "=?idna?Q?x?=")),
        ('form-data; name="i"; filename="=?x"', Part("i", "=?x")),
    ],
)
async def test_names_are_read_as_browsers_and_curl_write_them(header: str, part: Part) -> None:
    body = f"preamble\r\n--b \r\nContent-Disposition: {header}\r\n\r\nx\r\n--b--\r\nepilogue"
    assert await parsed(body.encode()) == [(part, b"x")]


@pytest.mark.parametrize("size", [7, 1 << 18])
@pytest.mark.parametrize("blanks", [b" " * 1024, b"\t " * 512])
async def test_blanks_after_a_boundary_mean_nothing(blanks: bytes, size: int) -> None:
    body = encoded([b"x"]).replace(b"--b\r\n", b"--b" + blanks + b"\r\n")
    assert await parsed(body, size) == [(Part("n", "f"), b"x")]


@pytest.mark.parametrize("size", [7, 1 << 18])
async def test_many_blanks_after_a_boundary_are_refused(size: int) -> None:
    body = encoded([b"x"]).replace(b"--b\r\n", b"--b" + b" " * 100_000 + b"\r\n")
    with pytest.raises(BadRequestError, match="more than 1024 blanks follow a boundary"):
        await parsed(body, size)


def test_a_boundary_may_be_quoted() -> None:
    assert boundary_of('multipart/form-data; charset=utf-8; boundary="a b:c"') == b"a b:c"


async def send_half(server: Server) -> asyncio.StreamWriter:
    """Begin to submit a picture, and stop in the middle of it."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    # More than the server gathers before it begins to write.
    body = encoded([a_picture() + bytes(300_000)]).replace(b'name="n"', b'name="image"')
    writer.write(
        b"POST /api/v1/upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" % (len(body) + 10**6) + body[:-40]
    )
    await writer.drain()
    return writer


async def test_an_upload_whose_caller_goes_away_is_removed(
    api: Api, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    writer = await send_half(server)
    await until(lambda: len(server.uploads()) == 1)
    writer.transport.abort()
    await until(lambda: not server.uploads())
    assert (await api.get("/health")).status == 200
    assert "Traceback" not in caplog.text


async def test_a_stopping_server_removes_uploads_in_progress(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    writer = await send_half(server)
    await until(lambda: len(server.uploads()) == 1)
    await asyncio.to_thread(server.stop_serving)
    assert server.uploads() == []
    writer.close()


async def test_many_parts_are_refused_at_the_first_that_is_not_wanted(
    api: Api, server: Server
) -> None:
    body = encoded([b"x"] * 10_000)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await api.post("/upscale", data=body, headers=headers)
    assert answer.status == 400
    assert answer.json["error"].startswith("There is no field 'n'")
    assert server.uploads() == []


async def test_a_full_disk_is_told_and_leaves_nothing(
    api: Api, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "upload"
    full.symlink_to("/dev/full")  # every write to it fails as on a full disk
    monkeypatch.setattr(Workspace, "new_upload", lambda _: full)
    answer = await api.upscale(a_picture())
    assert (answer.status, answer.json["code"]) == (507, "insufficient_storage")
    assert not full.is_symlink()
    monkeypatch.undo()
    assert await api.completed()


async def test_a_disk_that_fills_up_within_the_last_bytes_is_told(api: Api, server: Server) -> None:
    # As on a full disk, what still fits is written, and only the next write fails.
    picture = a_picture() + bytes(900 << 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(picture) - 10, before[1]))
    try:
        answer = await api.upscale(picture)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (answer.status, answer.json["code"]) == (507, "insufficient_storage")
    assert server.uploads() == []


async def test_a_stopping_server_takes_nothing_new(serve: Callable[..., Server]) -> None:
    server = serve()
    await asyncio.wrap_future(server.call(server.service.stop()))
    async with Api(server) as api:
        answer = await api.upscale(a_picture())
        assert (answer.status, answer.json["code"]) == (503, "shutting_down")
        assert int(answer.headers["retry-after"]) > 0


async def test_a_name_in_latin_1_is_readable_too() -> None:
    head = 'Content-Disposition: form-data; name="i"; filename="größe.png"'.encode("latin-1")
    body = b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--\r\n"
    assert await parsed(body) == [(Part("i", "größe.png"), b"x")]
