"""Importing models over the network: by an administrator, checked; bad files leave nothing."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from testkit import checkpoints
from testkit.running import FAST_MODEL, Api, Server, a_picture
from upscaled.callers import hash_of

ADMIN, LAPTOP = "open-sesame", "laptop-secret"


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    """A models folder of one's own, with one official model."""
    folder = tmp_path / "models"
    folder.mkdir()
    for ending in ("param", "bin"):
        shutil.copy(models_dir / f"{FAST_MODEL}-x2.{ending}", folder)
    return folder


@pytest.fixture
def settings(models: Path) -> dict[str, str]:
    """Settings of a server that takes models."""
    return {
        "upscaler__models_path": str(models),
        "upscaler__default_model": FAST_MODEL,
        "server__auth_token": ADMIN,
        "features__model_imports": "true",
    }


@pytest.fixture
async def admin(serve: Callable[..., Server], settings: dict[str, str]) -> AsyncIterator[Api]:
    """The administrator of such a server."""
    async with Api(serve(**settings), ADMIN) as api:
        yield api


@pytest.fixture
def published(models_dir: Path) -> bytes:
    """The official network for animations as a `.pth`."""
    stem = models_dir / f"{FAST_MODEL}-x4"
    tensors = checkpoints.of_official(
        stem.with_suffix(".param"), stem.with_suffix(".bin"), "compact"
    )
    return checkpoints.pth(tensors, within="params_ema")


def form(content: bytes, filename: str = "4x-Maps.pth", **fields: str) -> aiohttp.FormData:
    """Return the form of an import."""
    made = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        made.add_field(name, value)
    made.add_field("file", io.BytesIO(content), filename=filename)
    return made


def names(models: Path) -> list[str]:
    """Return what is in the models folder."""
    return sorted(path.name for path in models.iterdir())


async def test_an_imported_model_is_offered_upscales_and_can_be_deleted(
    admin: Api, published: bytes, models: Path
) -> None:
    before = names(models)
    facts = {"license": "CC-BY-4.0", "description": "For scanned maps", "author": "Ada"}
    made = await admin.post("/models?wait=45", data=form(published, **facts))
    assert made.status == 201, made
    assert made.json["status"] == "completed"
    assert made.json["name"] == "4x-Maps"
    assert made.json["model"]["scale"] == 4
    assert made.json["model"]["architecture"] == "Compact"
    assert min(made.json["model"]["decibels"].values()) >= 60
    told = await admin.get(made.headers["location"].removeprefix("/api/v1"))
    assert told.json["status"] == "completed"
    assert names(models) == sorted([*before, *(f"4x-Maps.{e}" for e in ("bin", "param", "yaml"))])
    listing = (await admin.get("/models")).json
    assert listing["may_import"]
    offered = {model["name"]: model for model in listing["models"]}
    assert offered["4x-Maps"]["license"] == "CC-BY-4.0"
    assert offered["4x-Maps"]["imported"]
    assert "imported" not in offered[FAST_MODEL]
    await admin.completed(a_picture(), model_name="4x-Maps", scale="4")
    gone = await admin.call("DELETE", "/models/4x-Maps")
    assert gone.json == {"success": True, "name": "4x-Maps"}
    assert names(models) == before
    assert [m["name"] for m in (await admin.get("/models")).json["models"]] == [FAST_MODEL]


async def test_without_waiting_the_import_is_followed_at_its_own_address(
    admin: Api, published: bytes
) -> None:
    begun = await admin.post(
        "/models?name=mine",
        data=io.BytesIO(published),
        headers={"Content-Type": "application/octet-stream"},
    )
    assert begun.status == 202, begun
    assert begun.json["status"] in {"queued", "importing"}
    address = begun.json["status_url"].removeprefix("/api/v1")
    # Jobs and other requests are answered meanwhile.
    assert (await admin.get("/models")).status == 200
    ended = await admin.get(f"{address}?wait=45")
    assert (ended.json["status"], ended.json["name"]) == ("completed", "mine")
    again = await admin.post("/models?wait=45&name=mine", data=form(published))
    assert (again.status, again.json["code"]) == (422, "unusable_model")
    assert again.json["error"] == (
        "There is a model mine already; send another name, or delete that model."
    )


@pytest.mark.parametrize(
    ("content", "fields", "status", "words"),
    [
        (b"<html>Not found</html>", {}, 422, "4x-Maps.pth is a web page, not a model"),
        (b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00true\x85R.", {}, 422, "may hold a program"),
        (checkpoints.pth(checkpoints.esrgan("body")), {}, 422, "changes colours by"),
        (checkpoints.pth(checkpoints.compact("relu")), {}, 422, "the field activation"),
        (b"x", {"name": "../evil"}, 422, "is not a valid model name"),
        (b"x", {"name": FAST_MODEL}, 422, f"There is a model {FAST_MODEL} already"),
        (b"x", {"name": f"{FAST_MODEL}-x3"}, 422, f"There is a model {FAST_MODEL} already"),
        (b"x", {"license": "a\nb"}, 400, "must be a line of up to 500 characters"),
        (b"x", {"activation": "tanh"}, 400, "it must be relu or leakyrelu"),
        (b"", {}, 400, "The model is empty."),
        (b"x", {"licence": "MIT"}, 400, "There is no field 'licence'"),
    ],
)
async def test_a_refusal_says_why_and_leaves_nothing(
    admin: Api, models: Path, content: bytes, fields: dict[str, str], status: int, words: str
) -> None:
    before = names(models)
    answer = await admin.post("/models?wait=45", data=form(content, **fields))
    assert answer.status == status, answer
    assert words in answer.json["error"]
    assert names(models) == before
    assert admin.server.uploads() == []


async def test_a_failed_import_says_why_at_its_address_too(admin: Api) -> None:
    begun = await admin.post("/models", data=form(b"nothing"))
    ended = await admin.get(begun.json["status_url"].removeprefix("/api/v1") + "?wait=45")
    assert ended.json["status"] == "failed"
    assert ended.json["code"] == "unusable_model"
    assert "send the file as it was published" in ended.json["error"]
    assert (await admin.get("/models/imports/1234567890123456789")).json["code"] == "unknown_import"


async def test_only_the_administrators_token_may_change_the_models(
    serve: Callable[..., Server], settings: dict[str, str], published: bytes
) -> None:
    named = {**settings, "server__tokens": f"laptop={hash_of(LAPTOP)}"}
    server = serve(**named)
    async with Api(server, LAPTOP) as laptop, Api(server) as nobody:
        for answer in (
            await laptop.post("/models", data=form(published)),
            await laptop.call("DELETE", f"/models/{FAST_MODEL}"),
            await laptop.get("/models/imports/1234567890123456789"),
        ):
            assert (answer.status, answer.json["code"]) == (403, "forbidden_models")
            assert answer.json["error"].endswith("the token of server.auth_token.")
        assert "may_import" not in (await laptop.get("/models")).json
        assert (await nobody.post("/models", data=form(published))).status == 401
    off = serve(**{**settings, "features__model_imports": "false"})
    async with Api(off, ADMIN) as api:
        answer = await api.post("/models", data=form(published))
        assert (answer.status, answer.json["code"]) == (403, "forbidden_models")
        assert "features.model_imports" in answer.json["error"]
    without = serve(**{**settings, "server__auth_token": ""})
    async with Api(without) as api:
        assert (await api.post("/models", data=form(published))).status == 403


async def test_what_is_not_imported_or_is_wanted_is_not_deleted(
    serve: Callable[..., Server], settings: dict[str, str], published: bytes, models: Path,
    models_dir: Path,
) -> None:  # fmt: skip
    for ending in ("param", "bin"):
        shutil.copy(models_dir / f"{FAST_MODEL}-x3.{ending}", models / f"mine.{ending}")
    async with Api(serve(**settings), ADMIN) as admin:
        for name, status, words in (
            (FAST_MODEL, 409, "is the default model"),
            ("mine", 409, "was not imported"),
            ("nothing", 404, "There is no model 'nothing'"),
            ("..%2Fmine", 404, "There is no model '../mine'"),
        ):
            answer = await admin.call("DELETE", f"/models/{name}")
            assert (answer.status, words in answer.json["error"]) == (status, True), answer
        assert (await admin.post("/models?wait=45", data=form(published))).status == 201
        job = await admin.accepted(a_picture(900, 900), model_name="4x-Maps", scale="4")
        answer = await admin.call("DELETE", "/models/4x-Maps")
        assert (answer.status, answer.json["code"]) == (409, "wrong_state")
        assert "Jobs that are not finished use 4x-Maps" in answer.json["error"]
        await admin.post(f"/cancel/{job}")
        assert (await admin.call("DELETE", "/models/4x-Maps")).status == 200


async def test_a_server_for_commercial_use_asks_for_the_licence_first(
    serve: Callable[..., Server], settings: dict[str, str], published: bytes
) -> None:
    server = serve(**settings, upscaler__commercial_models_only="true")
    async with Api(server, ADMIN) as admin:
        for fields in ({}, {"license": "CC-BY-NC-4.0"}):
            answer = await admin.post("/models?wait=45", data=form(published, **fields))
            assert answer.status == 422
            assert "upscaler.commercial_models_only" in answer.json["error"]
        answer = await admin.post("/models?wait=45", data=form(published, license="MIT"))
        assert answer.status == 201


async def test_networks_of_different_licences_are_told_apart(admin: Api) -> None:
    for scale, licence in ((2, "MIT"), (4, "CC-BY-NC-4.0")):
        content = checkpoints.pth(checkpoints.compact("prelu", scale=scale))
        facts = {"name": f"mix-x{scale}", "license": licence}
        made = await admin.post("/models?wait=45", data=form(content, **facts))
        assert (made.status, made.json["name"]) == (201, "mix"), made
    listed = {model["name"]: model for model in (await admin.get("/models")).json["models"]}
    assert listed["mix"]["license"] == "MIT AND CC-BY-NC-4.0"
    job_id = await admin.completed(model_name="mix", scale="4")
    receipt = (await admin.get(f"/receipt/{job_id}")).json
    assert (receipt["model"]["native_scale"], receipt["model"]["license"]) == (4, "CC-BY-NC-4.0")


async def test_a_few_imports_wait_and_more_are_refused(admin: Api, published: bytes) -> None:
    answers = [
        await admin.post("/models", data=form(published, name=f"m{number}")) for number in range(5)
    ]
    assert [answer.status for answer in answers] == [202, 202, 202, 202, 503]
    assert answers[4].json["code"] == "queue_full"
    assert answers[4].headers["retry-after"] == "60"
    for answer in answers[:4]:
        ended = await admin.get(answer.json["status_url"].removeprefix("/api/v1") + "?wait=45")
        assert ended.json["status"] == "completed"


async def test_a_file_that_is_too_large_is_refused_before_it_is_sent(
    serve: Callable[..., Server], settings: dict[str, str]
) -> None:
    async with Api(serve(**settings, server__max_request_size_mb="1"), ADMIN) as admin:
        answer = await admin.post("/models", data=form(bytes(2 << 20)))
        assert (answer.status, answer.json["code"]) == (413, "too_large")


async def test_what_came_of_imports_survives_a_restart(
    serve: Callable[..., Server], settings: dict[str, str], published: bytes
) -> None:
    server = serve(**settings)
    addresses = []
    async with Api(server, ADMIN) as admin:
        for name, content in (("good", published), ("bad", b"nothing")):
            begun = await admin.post("/models", data=form(content, name=name))
            addresses.append(begun.json["status_url"].removeprefix("/api/v1"))
            await admin.get(f"{addresses[-1]}?wait=45")
        before = [(await admin.get(address)).json for address in addresses]
        # A stop does not wait for an import.
        cut = await admin.post("/models", data=form(published, name="other"))
        addresses.append(cut.json["status_url"].removeprefix("/api/v1"))
    await asyncio.to_thread(server.stop_serving)
    again = Server(server.config)
    await asyncio.to_thread(again.start)
    try:
        async with Api(again, ADMIN) as admin:
            after = [(await admin.get(address)).json for address in addresses]
            assert after[:2] == before
            assert [one["status"] for one in after] == ["completed", "failed", "failed"]
            assert after[1]["code"] == "unusable_model"
            assert after[2]["error"] == (
                "The server was stopped during the import; send the file again."
            )
            # And the next ones are remembered beside them.
            ended = await admin.post("/models?wait=45", data=form(published, name="other"))
            assert ended.status == 201, ended
            assert (await admin.get(addresses[0])).json == before[0]
            unknown = (await admin.get("/models/imports/1234567890123456789")).json
            assert unknown["error"] == (
                "There is no import with this id; the last 50 are remembered."
            )
    finally:
        await asyncio.to_thread(again.stop)


async def test_a_damaged_record_of_imports_hinders_nothing(
    serve: Callable[..., Server], settings: dict[str, str], published: bytes
) -> None:
    server = serve(**settings)
    await asyncio.to_thread(server.stop_serving)
    (server.data_dir / "imports.json").write_bytes(b'{"imports": [{"id"')
    again = Server(server.config)
    await asyncio.to_thread(again.start)
    try:
        async with Api(again, ADMIN) as admin:
            ended = await admin.post("/models?wait=45", data=form(published))
            assert ended.status == 201, ended
    finally:
        await asyncio.to_thread(again.stop)
