"""A compromised process may answer anything; its replies are never trusted."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testkit.imaging import enlarged
from testkit.pictures import encoded
from testkit.zoo import CARD
from upscaled.errors import EngineError, UpscaledError
from upscaled.imaging import NOTHING_WRITTEN, Band, FinishOptions, Imaging, Prepared, ResultProgress
from upscaled.imaging.fair_places import PlaceKind
from upscaled.imaging.replies import WrongReplyError
from upscaled.pictures import RawImage, Size
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import WorkerRefusedError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Lie = Callable[[dict[str, Any]], None]
PICTURE = CARD.convert("RGBA")
PICTURE.putpixel((5, 5), (1, 2, 3, 0))


class Folder:
    """A job's folder with an upload, and with a file outside that nobody may read."""

    def __init__(self, path: Path) -> None:
        self.path = path / "job"
        self.path.mkdir()
        self.upload = self.path / "upload"
        empty = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
        self.upload.write_bytes(encoded(PICTURE, "PNG", exif=empty))
        self.secret = path / "secret"
        self.secret.write_bytes(b"s" * 3 * PICTURE.width * PICTURE.height)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def lying(imaging: Imaging, monkeypatch: pytest.MonkeyPatch) -> Callable[[Lie], None]:
    """Change every reply of an imaging process before it arrives."""
    real = WorkerClient.request

    def install(lie: Lie) -> None:
        async def request(self: WorkerClient, message: Any, **options: Any) -> Any:
            reply = await real(self, message, **options)
            if message["do"] != "ping":
                await asyncio.to_thread(lie, reply)
            return reply

        monkeypatch.setattr(WorkerClient, "request", request)

    return install


def put(*path: str, value: Any) -> Lie:
    """Return a lie that sets one field."""

    def lie(reply: dict[str, Any]) -> None:
        for name in path[:-1]:
            reply = reply[name]
        reply[path[-1]] = value

    return lie


HUGE = 1 << 70
TEXTS: tuple[Any, ...] = (None, 7, ["x" * 400], ["a\nb"], ["\x1b[2J"], ["x"] * 65, ["x", None])
SIDES: tuple[Any, ...] = (0, -1, 61, HUGE, 60.5, "60", None, True, [60])
PREPARED: dict[str, tuple[Any, ...]] = {
    "width": SIDES,
    "height": SIDES,
    "has_alpha": (1, "yes", None, {"path": "/etc/passwd", "width": 60, "height": 44}),
    "grey": (1, None, "x"),
    "has_sidecar": (1, None, "/etc/passwd"),
    "kept": TEXTS,
    "lost": TEXTS,
    "path": ("/etc/passwd",),
    "alpha": ({"path": "/etc/passwd", "width": 60, "height": 44, "channels": 1},),
    "sidecar": ("/etc/passwd",),
    "source": ({"path": "/etc/passwd"},),
}
PROBE: dict[str, tuple[Any, ...]] = {
    "format": ("exe", "", None, 3, "../../etc", "PNG"),
    "width": (0, -1, 1 << 30, HUGE, None, "60", 1.5),
    "height": (0, -1, 1 << 30, HUGE, None, "44", 1.5),
    "has_alpha": (None, 1, "true"),
    "prepared": (7, [], "source.rgb", {}, {"width": 60}),
    "upload": ("/etc/passwd",),
}
FINISH: dict[str, tuple[Any, ...]] = {
    "rows": (-1, 89, HUGE, None, "88", 1.5),
    "length": (-1, HUGE, 1 << 40, None, "9"),
    "state": (-1, 1 << 32, None, "1"),
    "score": (-0.1, 1.1, float("nan"), float("inf"), None, "1"),
    "pieces": (
        None,
        [["/etc/passwd", 0, 1, 0]],
        [["../secret", 0, 1, 0]],
        [["upload", 0, 1, 0]],
        [["result.part", -1, 1, 0]],
        [["result.part", 0, -1, 0]],
        [["result.part", 0, 1 << 40, 0]],
        [["result.part", 0, 1, -1]],
        [["result.part", 0, 1, 1 << 32]],
        [["result.part", 0, 1]],
        [["native.rgb", 0, 1 << 40, 0]],
        [["result.part", 0, 1, 0]] * 3,
    ),
    "file": (None, 7, "/etc/passwd", {}, {"path": "/etc/passwd"}),
    "path": ("/etc/passwd",),
    "finished": ({"path": "/etc/passwd"},),
}
FILE: dict[str, tuple[Any, ...]] = {
    "length": (0, 1, -1, HUGE, None, "9"),
    "sha256": ("", "x" * 64, None, 7, "a" * 63, "A" * 64),
    "kept": TEXTS,
    "lost": TEXTS,
    "path": ("/etc/passwd",),
}


def cases(fields: dict[str, tuple[Any, ...]], *within: str) -> list[Any]:
    return [
        pytest.param(put(*within, name, value=value), id=f"{name}-{str(value)[:30]}")
        for name, values in fields.items()
        for value in values
    ]


@pytest.mark.parametrize("lie", cases(PREPARED, "prepared"))
async def test_lies_about_a_decoded_picture(
    lie: Lie, folder: Folder, imaging: Imaging, lying: Callable[[Lie], None]
) -> None:
    lying(lie)
    with pytest.raises(WrongReplyError):
        await imaging.prepare(folder.upload, folder.path)


async def test_a_decoded_picture_of_another_size_than_its_header_is_refused(
    folder: Folder, imaging: Imaging
) -> None:
    with pytest.raises(UpscaledError, match="the header says 61×44, the picture is 60×44"):
        await imaging.prepare(folder.upload, folder.path, expected=Size(61, 44))


@pytest.mark.parametrize("lie", cases(PROBE))
async def test_lies_about_a_header(
    lie: Lie, folder: Folder, imaging: Imaging, lying: Callable[[Lie], None]
) -> None:
    lying(lie)
    with pytest.raises(WrongReplyError):
        await imaging.probe(folder.upload)
    with pytest.raises(UpscaledError):
        await imaging.receive(folder.upload, folder.path)


@pytest.mark.parametrize("headers", [None, 7, [], [None] * 3, [7, 7], [{"format": "exe"}] * 2])
async def test_after_lies_about_many_headers_each_is_read_alone(
    headers: Any, folder: Folder, imaging: Imaging, lying: Callable[[Lie], None]
) -> None:
    def lie(reply: dict[str, Any]) -> None:
        if "headers" in reply:
            reply["headers"] = headers

    alone = await imaging.probe(folder.upload)
    lying(lie)
    assert await imaging.probe_all([folder.upload] * 2) == [alone] * 2


@pytest.mark.parametrize("lie", [*cases(FINISH), *cases(FILE, "file")])
async def test_lies_about_a_result(
    lie: Lie, folder: Folder, imaging: Imaging, lying: Callable[[Lie], None]
) -> None:
    prepared = await imaging.prepare(folder.upload, folder.path)
    native = enlarged(prepared)
    lying(lie)
    with pytest.raises(WrongReplyError):
        await _finish(imaging, prepared, native, folder)


async def _finish(
    imaging: Imaging,
    prepared: Prepared,
    native: RawImage,
    folder: Folder,
    written: ResultProgress = NOTHING_WRITTEN,
) -> ResultProgress:
    options = FinishOptions("png", native.size)
    band = Band(written.source_rows, prepared.source.size.height)
    return await imaging.finish(prepared, native, folder.path, options, band, written)


@pytest.mark.parametrize("score", [-1, 2, float("nan"), None, "x"])
async def test_lies_about_a_score(
    score: object, folder: Folder, imaging: Imaging, lying: Callable[[Lie], None]
) -> None:
    prepared = await imaging.prepare(folder.upload, folder.path)
    native = enlarged(prepared)
    lying(put("score", value=score))
    with pytest.raises(WrongReplyError):
        await imaging.check(prepared.source, native, 0, 44)


def _link(path: Path, folder: Folder) -> None:
    path.unlink()
    path.symlink_to(folder.secret)


def _hard_link(path: Path, folder: Folder) -> None:
    path.unlink()
    os.link(folder.secret, path)


def _pipe(path: Path, _: Folder) -> None:
    path.unlink()
    os.mkfifo(path)


def _missing(path: Path, _: Folder) -> None:
    path.unlink()


def _short(path: Path, _: Folder) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("trick", [_link, _hard_link, _pipe, _missing, _short])
@pytest.mark.parametrize("name", ["source.rgb", "source.alpha"])
async def test_what_takes_the_place_of_a_file_is_not_read(
    trick: Callable[[Path, Folder], None],
    name: str,
    folder: Folder,
    imaging: Imaging,
    lying: Callable[[Lie], None],
) -> None:
    prepared = await imaging.prepare(folder.upload, folder.path)
    native = enlarged(prepared)
    lying(lambda _: trick(folder.path / name, folder))
    with pytest.raises(WrongReplyError):
        await imaging.prepare(folder.upload, folder.path)
    if trick is _link:  # also not once the answer was taken
        lying(lambda _: None)
        await asyncio.to_thread(_link, folder.path / name, folder)
        with pytest.raises(EngineError):
            await _finish(imaging, replace(prepared, sidecar=None), native, folder)


async def test_a_result_is_not_written_through_a_link(folder: Folder, imaging: Imaging) -> None:
    prepared = await imaging.prepare(folder.upload, folder.path)
    native = enlarged(prepared)
    before = folder.secret.read_bytes()
    (folder.path / "result.part").symlink_to(folder.secret)
    for without in (prepared, replace(prepared, sidecar=None)):  # in a child, and without one
        with pytest.raises(EngineError):
            await _finish(imaging, without, native, folder)
    assert folder.secret.read_bytes() == before


async def test_a_refusal_of_no_known_kind_is_an_engines_error_and_one_line(
    folder: Folder, imaging: Imaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def request(*_: object, **__: object) -> Any:
        raise WorkerRefusedError("__class__", "a\x1b[2J\n" + "b" * 5000)

    await imaging.warm()
    monkeypatch.setattr(WorkerClient, "request", request)
    with pytest.raises(EngineError) as caught:
        await imaging.probe(folder.upload)
    assert caught.value.message.startswith("a?[2J?bb")
    assert len(caught.value.message) == 1000


async def test_a_request_that_cannot_be_confined_is_done_by_another_process(
    folder: Folder, imaging: Imaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    await imaging.warm()
    real, refusals, asked = WorkerClient.request, [1], []

    async def request(self: WorkerClient, message: Any, **options: Any) -> Any:
        asked.append((self.pid, json.dumps(message["required"])))
        if refusals:
            raise WorkerRefusedError("unconfined", f"It cannot be confined ({refusals.pop()}).")
        return await real(self, message, **options)

    monkeypatch.setattr(WorkerClient, "request", request)
    assert (await imaging.probe(folder.upload)).format == "png"
    assert [pid is None for pid, _ in asked] == [False, True]  # the second starts afresh
    refusals += [1, 2]
    with pytest.raises(EngineError, match="cannot be confined") as caught:
        await imaging.probe(folder.upload)
    assert caught.value.retryable
    assert {required for _, required in asked} == {json.dumps(list(imaging._pool._required or ()))}


async def test_the_place_is_free_again_after_any_lie(
    folder: Folder, imaging: Imaging, lying: Callable[[Lie], None]
) -> None:
    lying(put("format", value="exe"))
    for _ in range(5):
        with pytest.raises(WrongReplyError):
            await imaging.probe(folder.upload)
    assert imaging._pool._places.free == 2
    async with imaging._pool.hold(PlaceKind.JOB, ""):
        assert imaging._pool._places.free == 1
