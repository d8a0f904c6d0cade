"""``upscaled setup --photo-fast`` offers the small network for photos, or says what to do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from testkit import checkpoints
from upscaled.commands.download import SetupError
from upscaled.commands.photo_fast import NAME, RELEASE, Release, install_photo_fast
from upscaled.models.card import card_path, read_card
from upscaled.models.catalog import ModelCatalog
from upscaled.models.conversion.errors import ConversionError

# Of the official network's family and kind of file, but small and with random weights.
SMALL = checkpoints.pth(checkpoints.compact("prelu", scale=4), within="params")
OTHER = checkpoints.pth({"a.weight": checkpoints.compact("prelu")["body.0.weight"]})


def release(server: TestServer, path: str, content: bytes) -> Release:
    return Release(str(server.make_url(path)), hashlib.sha256(content).hexdigest())


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=SMALL if request.path == "/small.pth" else OTHER)

    app = web.Application()
    app.router.add_get("/{name}", serve)
    running = TestServer(app)
    await running.start_server()
    yield running
    await running.close()


async def test_the_network_is_converted_checked_and_offered_with_its_licence(
    server: TestServer, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    made = await install_photo_fast(models, release=release(server, "/small.pth", SMALL))
    assert (made.name, made.scale) == (NAME, 4)
    assert min(made.agreement.decibels.values()) >= 60
    assert sorted(path.name for path in models.iterdir()) == [
        f"{NAME}.bin", f"{NAME}.param", f"{NAME}.yaml",
    ]  # fmt: skip
    card = await asyncio.to_thread(read_card, card_path(models, NAME))
    assert card is not None
    assert card.license == "BSD-3-Clause"
    assert card.original_sha256 == hashlib.sha256(SMALL).hexdigest()
    catalog = ModelCatalog(models, cache_file=tmp_path / "cache.json")
    await catalog.rescan()
    assert [model.name for model in catalog.models] == [NAME]


async def test_one_that_is_there_is_replaced_by_force_only(
    server: TestServer, tmp_path: Path
) -> None:
    small = release(server, "/small.pth", SMALL)
    await install_photo_fast(tmp_path, release=small)
    with pytest.raises(ConversionError, match=rf"model {NAME} already; add --force to replace"):
        await install_photo_fast(tmp_path, release=small)
    await install_photo_fast(tmp_path, release=small, replace=True)


async def test_another_file_than_expected_is_refused(server: TestServer, tmp_path: Path) -> None:
    other = release(server, "/small.pth", b"something else")
    with pytest.raises(SetupError, match="is not the expected file"):
        await install_photo_fast(tmp_path, release=other)
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_no_such_network_leaves_nothing(
    server: TestServer, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError):
        await install_photo_fast(tmp_path, release=release(server, "/other.pth", OTHER))
    assert list(tmp_path.iterdir()) == []


async def test_where_it_cannot_be_fetched_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    away = Release(f"http://127.0.0.1:{unused_port()}/x.pth", RELEASE.sha256)
    with pytest.raises(
        SetupError, match=rf"in another way, then type: upscaled models import {NAME}"
    ):
        await install_photo_fast(tmp_path, release=away)
