"""Archives over the network: their pages are upscaled in order, everything else is copied."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from testkit.books import a_book, a_page, packed
from testkit.contract import Answer
from testkit.running import FAST_MODEL, Api, Server
from upscaled.callers import hash_of

FIELDS = {"model_name": FAST_MODEL, "scale": "2"}


def form(content: bytes, filename: str = "book.cbz", **fields: str) -> aiohttp.FormData:
    """Return the form of a submission."""
    made = aiohttp.FormData(default_to_multipart=True)
    for name, value in {**FIELDS, **fields}.items():
        if value:
            made.add_field(name, value)
    made.add_field("archive", io.BytesIO(content), filename=filename)
    return made


async def ended(api: Api, told: Answer) -> dict[str, Any]:
    """Return the state of an archive when it has ended."""
    assert told.status in {200, 202}, told
    shown: dict[str, Any] = told.json
    while shown["status"] == "processing":
        shown = (await api.get(f"/archives/{shown['archive_id']}?wait=30")).json
    return shown


async def upscaled(api: Api, content: bytes, filename: str = "book.cbz", **fields: str) -> Answer:
    """Submit an archive, wait for its end and return the download."""
    shown = await ended(api, await api.post("/archives", data=form(content, filename, **fields)))
    assert shown["status"] == "completed", shown
    return await api.get(f"/archives/{shown['archive_id']}/download")


def names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def sizes(content: bytes) -> list[tuple[int, int]]:
    found = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.endswith(".png"):
                with Image.open(io.BytesIO(archive.read(name))) as page:
                    found.append(page.size)
    return found


async def test_pages_come_back_larger_in_their_order_and_the_rest_as_it_was(
    api: Api, server: Server
) -> None:
    jobs = (await api.get("/jobs")).json["jobs"]  # other tests use this server too
    files = set((server.data_dir / "jobs").iterdir())
    book = a_book(9, others=[("ComicInfo.xml", b"<ComicInfo/>"), ("notes/", b"")])
    accepted = await api.post("/archives", data=form(book, "volume-1.cbz", client_ref="shelf 3"))
    assert accepted.status == 202
    assert accepted.json["pages_total"] == 9
    assert accepted.json["entries"] == 11
    shown = await ended(api, accepted)
    assert shown["status"] == "completed"
    assert (shown["progress"], shown["pages_done"], shown["pages_upscaled"]) == (100, 9, 9)
    assert shown["client_ref"] == "shelf 3"
    done = await api.get(f"/archives/{shown['archive_id']}/download")
    assert done.status == 200
    assert names(done.body) == names(book)
    assert sizes(done.body) == [(48, 36)] * 9
    with zipfile.ZipFile(io.BytesIO(done.body)) as archive:
        assert archive.read("ComicInfo.xml") == b"<ComicInfo/>"
        assert archive.infolist()[3].date_time == (2001, 2, 3, 4, 0, 6)
    digest = hashlib.sha256(done.body)
    assert shown["sha256"] == digest.hexdigest()
    assert shown["file_size_bytes"] == len(done.body)
    encoded = base64.b64encode(digest.digest()).decode()
    assert done.headers["repr-digest"] == f"sha-256=:{encoded}:"
    assert done.headers["content-disposition"] == 'attachment; filename="volume-1_2x.cbz"'
    # Nothing is left of its pages, and after its download no file of the archive but the journal.
    assert (await api.get("/jobs")).json["jobs"] == jobs
    again = await api.get(f"/archives/{shown['archive_id']}/download")
    assert (again.status, again.json["code"]) == (410, "already_downloaded")
    assert "submit the archive again" in again.json["error"]
    folder = server.data_dir / "archives" / shown["archive_id"]
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]
    assert set((server.data_dir / "jobs").iterdir()) <= files


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
async def test_a_tar_file_stays_one(api: Api, kind: str) -> None:
    book = packed([("a/1.png", a_page(1)), ("b.txt", b"hello"), ("a/2.png", a_page(2))], kind)
    done = await upscaled(api, book, f"scans.{kind}")
    assert done.headers["content-disposition"] == f'attachment; filename="scans_2x.{kind}"'
    with tarfile.open(fileobj=io.BytesIO(done.body)) as archive:
        assert archive.getnames() == ["a/1.png", "b.txt", "a/2.png"]
        assert archive.getmembers()[2].mtime == 1_000_000_002
        page = archive.extractfile("a/2.png")
        assert page is not None
        with Image.open(page) as picture:
            assert picture.size == (48, 36)


async def test_the_archive_may_be_the_body(api: Api) -> None:
    query = "model_name=" + FAST_MODEL + "&scale=2&filename=b%C3%BCch.cbz&wait=45"
    headers = {"Content-Type": "application/vnd.comicbook+zip"}
    done = await api.post(f"/archives?{query}", data=a_book(2), headers=headers)
    assert (done.status, done.json["status"], done.json["kind"]) == (200, "completed", "cbz")
    assert done.json["filename"] == "büch.cbz"


async def test_without_more_pages_keep_their_formats_and_a_format_renames_them(api: Api) -> None:
    book = packed(
        [
            ("1.jpg", a_page(1, format_="JPEG")),
            ("2.png", a_page(2)),
            ("3.bmp", a_page(3, format_="BMP")),
        ]
    )
    assert names((await upscaled(api, book, quality="80")).body) == ["1.jpg", "2.png", "3.png"]
    assert names((await upscaled(api, book, format="webp")).body) == ["1.webp", "2.webp", "3.webp"]


async def test_large_pages_stay_as_they_are(api: Api) -> None:
    large = a_page(2, 60, 40)
    book = packed([("1.png", a_page(1)), ("2.png", large)])
    shown = await ended(api, await api.post("/archives", data=form(book, only_below="50x50")))
    assert (shown["pages_upscaled"], shown["pages_kept"]) == (1, 1)
    listed = (await api.get(f"/archives/{shown['archive_id']}/pages")).json["pages"]
    assert [page["status"] for page in listed] == ["upscaled", "kept"]
    assert listed[0]["output_size"] == {"width": 48, "height": 36}
    done = await api.get(f"/archives/{shown['archive_id']}/download")
    with zipfile.ZipFile(io.BytesIO(done.body)) as archive:
        assert archive.read("2.png") == large


async def test_a_bad_page_fails_the_archive_or_is_kept(api: Api) -> None:
    bad = a_page(2)[:70]
    book = packed([("1.png", a_page(1)), ("2.png", bad), ("3.png", a_page(3))])
    shown = await ended(api, await api.post("/archives", data=form(book)))
    assert (shown["status"], shown["code"]) == ("failed", "page_failed")
    assert shown["error"].startswith("The page '2.png' can't be upscaled: ")
    assert "on_bad_page=keep" in shown["error"]
    refused = await api.get(f"/archives/{shown['archive_id']}/download")
    assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    shown = await ended(api, await api.post("/archives", data=form(book, on_bad_page="keep")))
    assert (shown["status"], shown["pages_upscaled"], shown["pages_failed"]) == ("completed", 2, 1)
    listed = (await api.get(f"/archives/{shown['archive_id']}/pages?cursor=1&limit=1")).json
    assert listed["next_cursor"] == "2"
    assert listed["pages"][0]["name"] == "2.png"
    assert listed["pages"][0]["status"] == "failed"
    assert listed["pages"][0]["error"]
    done = await api.get(f"/archives/{shown['archive_id']}/download")
    with zipfile.ZipFile(io.BytesIO(done.body)) as archive:
        assert archive.read("2.png") == bad
        assert archive.namelist() == ["1.png", "2.png", "3.png"]


async def test_an_archive_of_nothing_but_bad_pages_fails(api: Api) -> None:
    book = packed([("1.png", a_page(1)[:60])])
    shown = await ended(api, await api.post("/archives", data=form(book, on_bad_page="keep")))
    assert shown["status"] == "failed"
    assert shown["error"].startswith("No page could be upscaled; the first one, '1.png': ")


@pytest.mark.parametrize(
    ("content", "fields", "status", "code", "sentence"),
    [
        (b"Rar!\x1a\x07\x00", {}, 415, "unsupported_archive", "repack it as ZIP, CBZ"),
        (a_page(1), {}, 415, "unsupported_archive", "no archive of a known format"),
        (packed([("../1.png", a_page(1))]), {}, 422, "unusable_archive", "leads out of its folder"),
        (packed([("1.txt", b"text")]), {}, 422, "unusable_archive", "There is no picture"),
        (a_book(1)[:-30], {}, 422, "unusable_archive", "repack it"),
        (a_book(1), {"scale": "7"}, 400, "bad_request", "it must be 2, 3 or 4"),
        (a_book(1), {"only_below": "big"}, 400, "bad_request", "only_below is 'big'"),
        (a_book(1), {"on_bad_page": "cry"}, 400, "bad_request", "it must be fail or keep"),
        (a_book(1), {"model_name": "none"}, 400, "unknown_model", "There is no model 'none'"),
        (a_book(1), {"image_url": "http://x.example"}, 400, "bad_request", "There is no field"),
    ],
)  # fmt: skip
async def test_what_can_not_be_used_is_refused_and_leaves_nothing(
    api: Api,
    server: Server,
    content: bytes,
    fields: dict[str, str],
    status: int,
    code: str,
    sentence: str,
) -> None:
    before = set((server.data_dir / "archives").iterdir())
    answer = await api.post("/archives", data=form(content, **fields))
    assert (answer.status, answer.json["code"]) == (status, code), answer
    assert sentence in answer.json["error"]
    assert set((server.data_dir / "archives").iterdir()) == before
    assert server.uploads() == []


async def test_the_settings_bound_what_an_archive_holds(serve: Callable[..., Server]) -> None:
    server = serve(archives__max_entries="3", archives__max_size_mb="1", archives__max_entry_mb="1")
    async with Api(server) as api:
        answer = await api.post("/archives", data=form(a_book(4)))
        assert (answer.status, answer.json["code"]) == (413, "archive_too_large")
        assert "more than 3 entries" in answer.json["error"]
        huge = packed([("1.png", a_page(1)), ("2.bin", bytes(1 << 20))])
        answer = await api.post("/archives", data=form(huge))
        assert (answer.status, answer.json["code"]) == (413, "too_large")
        told = (await api.get("/limits")).json["archives"]
        assert (told["max_entries"], told["max_bytes"]) == (3, 1 << 20)


async def test_a_client_has_so_many_archives_at_a_time(serve: Callable[..., Server]) -> None:
    async with Api(serve(archives__max_per_client="1")) as api:
        first = await api.post("/archives", data=form(a_book(40)))
        second = await api.post("/archives", data=form(a_book(1)))
        assert (second.status, second.json["code"]) == (503, "queue_full")
        assert "archives.max_per_client" in second.json["error"]
        assert second.headers["retry-after"]
        deleted = await api.call("DELETE", f"/archives/{first.json['archive_id']}")
        assert deleted.status == 204
        assert (await ended(api, await api.post("/archives", data=form(a_book(1)))))["sha256"]


async def test_deleting_an_archive_ends_its_work_and_leaves_nothing(
    api: Api, server: Server
) -> None:
    files = set((server.data_dir / "jobs").iterdir())
    accepted = await api.post("/archives", data=form(a_book(60)))
    address = f"/archives/{accepted.json['archive_id']}"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}{address}/events") as response,
    ):
        async for line in response.content:
            if line == b"event: page\n":
                break
    assert (await api.call("DELETE", address)).status == 204
    assert (await api.get(address)).json["code"] == "unknown_archive"
    assert not (server.data_dir / address.strip("/")).exists()
    assert set((server.data_dir / "jobs").iterdir()) <= files
    health = (await api.get("/health")).json
    assert (health["queue_length"], health["processing"]) == (0, 0)


async def test_pages_are_nobody_s_jobs_and_archives_their_owner_s(
    serve: Callable[..., Server],
) -> None:
    tokens = f"ada={hash_of('a' * 20)},bob={hash_of('b' * 20)}"
    server = serve(server__tokens=tokens)
    async with Api(server, "a" * 20) as ada, Api(server, "b" * 20) as bob:
        accepted = await ada.post("/archives", data=form(a_book(30)))
        address = f"/archives/{accepted.json['archive_id']}"
        for part in ("", "/pages", "/events", "/download"):
            assert (await bob.get(address + part)).json["code"] == "unknown_archive"
        assert (await bob.call("DELETE", address)).status == 404
        assert (await ada.get("/jobs")).json["jobs"] == []
        jobs = [path.name for path in (server.data_dir / "jobs").iterdir()]
        for job_id in jobs:
            assert (await ada.get(f"/status/{job_id}")).status == 404
        assert (await bob.get("/archives")).json == {"archives": []}
        listed = (await ada.get("/archives?limit=1")).json["archives"]
        assert [row["archive_id"] for row in listed] == [accepted.json["archive_id"]]
        assert (await ended(ada, accepted))["status"] == "completed"


async def test_pages_that_are_not_done_yet_are_listed_too(api: Api) -> None:
    accepted = await api.post("/archives", data=form(a_book(50)))
    address = f"/archives/{accepted.json['archive_id']}"
    listed = (await api.get(f"{address}/pages?limit=1000")).json["pages"]
    assert [page["number"] for page in listed] == list(range(1, 51))
    assert [page["name"] for page in listed] == [f"pages/{n:05}.png" for n in range(1, 51)]
    assert listed[-1]["status"] == "queued"
    await ended(api, accepted)
    listed = (await api.get(f"{address}/pages?limit=1000")).json["pages"]
    assert [page["status"] for page in listed] == ["upscaled"] * 50


async def test_a_repetition_with_the_same_key_gets_the_same_archive(api: Api) -> None:
    headers = {"Idempotency-Key": "book 7"}
    book = a_book(3)
    first = await api.post("/archives", data=form(book), headers=headers)
    second = await api.post("/archives", data=form(book), headers=headers)
    assert second.headers["idempotent-replayed"] == "true"
    assert second.json["archive_id"] == first.json["archive_id"]
    other = await api.post("/archives", data=form(a_book(2)), headers=headers)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    await ended(api, first)


async def test_a_download_can_be_continued_and_kept(api: Api) -> None:
    shown = await ended(api, await api.post("/archives", data=form(a_book(4))))
    address = f"/archives/{shown['archive_id']}/download"
    whole = await api.get(f"{address}?keep=true")
    part = await api.get(f"{address}?keep=true", headers={"Range": "bytes=100-"})
    assert part.status == 206
    assert part.body == whole.body[100:]
    outside = await api.get(address, headers={"Range": f"bytes={len(whole.body)}-"})
    assert outside.status == 416
    await api.get(address, headers={"Range": "bytes=0-99"})
    assert (await api.get(address, headers={"Range": "bytes=100-"})).status == 206
    assert (await api.get(address)).status == 410


async def test_events_tell_each_page_once_and_the_end(api: Api, server: Server) -> None:
    accepted = await api.post("/archives", data=form(a_book(12)))
    address = f"/archives/{accepted.json['archive_id']}/events"
    told = events(await stream_of(server, address))
    assert [kind for kind, _, _ in told] == ["update", *["page"] * 12, "update"]
    assert [content["number"] for kind, _, content in told if kind == "page"] == [*range(1, 13)]
    assert told[-1][2]["status"] == "completed"
    last = told[-1][1]
    assert (await api.get(address, headers={"Last-Event-ID": str(last)})).status == 204
    rest = events(await stream_of(server, address, {"Last-Event-ID": str(2 * 9)}))
    assert [content.get("number") for _, _, content in rest] == [10, 11, 12, None]


async def test_a_stream_of_a_deleted_archive_ends(api: Api, server: Server) -> None:
    accepted = await api.post("/archives", data=form(a_book(60)))
    address = f"/archives/{accepted.json['archive_id']}"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}{address}/events") as response,
    ):
        assert await response.content.readline()
        assert (await api.call("DELETE", address)).status == 204
        told = events((await response.content.read()).decode())
    assert "completed" not in [content.get("status") for _, _, content in told]


async def test_archives_leave_most_of_a_short_queue_to_others(
    serve: Callable[..., Server],
) -> None:
    server = serve(limits__max_queue_size="4")
    async with Api(server) as api:
        accepted = await api.post("/archives", data=form(a_book(40)))
        while (await api.get(f"/archives/{accepted.json['archive_id']}")).json[
            "status"
        ] == "processing":
            await api.completed()


async def stream_of(server: Server, path: str, headers: dict[str, str] | None = None) -> str:
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(server.url + path) as response,
    ):
        assert response.status == 200
        return await response.text()


def events(text: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Return kind, id and content of all events of a stream."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            found.append((lines["event"], int(lines.get("id", 0)), json.loads(lines["data"])))
    return found


async def test_where_archives_are_switched_off_there_is_nothing(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    async with Api(serve(features__archives="false")) as api:
        answer = await api.post("/archives", data=form(a_book(1)))
        assert (answer.status, answer.json["error"]) == (
            404,
            "There is nothing at /api/v1/archives.",
        )
        assert (await api.get("/limits")).json["archives"] is None
