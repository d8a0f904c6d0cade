"""Model cards, read from files that people write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testkit.networks import write_repeater
from upscaled.errors import UnknownModelError
from upscaled.models.card import OFFICIAL_CARDS, ModelCard, Purpose, merged, read_card, write_card
from upscaled.models.catalog import ModelCatalog


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    card = ModelCard(license="CC0-1.0", author="Zoë", parameters=12)
    write_card(tmp_path / "m.yaml", card)
    assert read_card(tmp_path / "m.yaml") == card
    assert read_card(tmp_path / "other.yaml") is None


def test_what_a_card_of_a_later_version_adds_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("license: MIT\nstars: 5\nauthor:\n")
    assert read_card(path) == ModelCard(license="MIT")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2]", "must hold lines such as license: MIT"),
        ("license: [", "is not YAML"),
        ("\0", "is not YAML"),
        ("parameters: many", "parameters in m.yaml must be a whole number"),
        ("commercial_use: maybe", "commercial_use in m.yaml must be true or false"),
        ("x" * 70_000, "more than 64 KiB"),
    ],
)
def test_a_card_that_cannot_be_used_says_what_to_change(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_card(path)


def test_texts_of_a_card_are_lines_that_a_terminal_can_show(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        'license: "MIT\\e[31m\\nX"\nauthor: " \\t"\ndescription: |\n  Maps\n  and plans\n'
    )
    assert read_card(path) == ModelCard(license="MIT [31m X", description="Maps and plans")


def test_the_card_of_several_networks_tells_what_is_true_of_all() -> None:
    one = ModelCard("MIT", "Ada", "Maps", architecture="SPAN", parameters=5)
    other = ModelCard("CC-BY-NC-4.0", "Bo", "Plans", architecture="SPAN", parameters=6)
    assert merged([one, other]) == ModelCard(
        "MIT AND CC-BY-NC-4.0", "Ada, Bo", "Maps", architecture="SPAN"
    )
    assert merged([one, one]) == one


@pytest.mark.parametrize(
    ("description", "purpose"),
    [
        ("General purpose, high quality", Purpose.PHOTOS), ("Photos, quick", Purpose.PHOTOS),
        ("Optimized for anime/animation", Purpose.DRAWINGS), ("Line art", Purpose.DRAWINGS),
        ("Photos and cartoons", Purpose.ANY), ("Clean pictures", Purpose.ANY),
        (None, Purpose.UNKNOWN),
    ],
)  # fmt: skip
def test_a_description_tells_what_pictures_a_model_is_for(
    description: str | None, purpose: Purpose
) -> None:
    assert ModelCard(description=description).purpose is purpose


def test_the_official_models_have_cards() -> None:
    assert set(OFFICIAL_CARDS) == {
        "realesrgan-x4plus", "realesrgan-x4plus-anime", "realesr-animevideov3"
    }  # fmt: skip
    assert all(card.license == "BSD-3-Clause" for card in OFFICIAL_CARDS.values())


async def test_a_broken_card_is_told_and_its_model_offered(tmp_path: Path) -> None:
    await asyncio.to_thread(write_repeater, tmp_path, "mine", 2)
    (tmp_path / "mine.yaml").write_text("- no card")
    catalog = ModelCatalog(tmp_path)
    await catalog.rescan()
    assert [model.name for model in catalog.models] == ["mine"]
    assert catalog.rejected[0].name == "mine.yaml"
    assert catalog.rejected[0].reason.endswith("the model is offered without it.")
    (tmp_path / "mine.yaml").write_text("license: MIT")
    await catalog.rescan()
    assert catalog.models[0].card.license == "MIT"
    assert catalog.rejected == ()


@pytest.fixture
def two_licences(tmp_path: Path) -> Path:
    """A model of two networks by different people."""
    for scale, licence in ((2, "MIT"), (4, "CC-BY-NC-4.0")):
        write_repeater(tmp_path, f"mix-x{scale}", scale)
        write_card(tmp_path / f"mix-x{scale}.yaml", ModelCard(license=licence))
    return tmp_path


async def test_a_model_has_the_licences_of_all_its_networks(two_licences: Path) -> None:
    catalog = ModelCatalog(two_licences)
    await catalog.rescan()
    model = catalog.get("mix")
    assert model.card.license == "MIT AND CC-BY-NC-4.0"
    assert model.license_of(model.files_for(2)) == "MIT"
    assert model.license_of(model.files_for(4)) == "CC-BY-NC-4.0"


async def test_for_commercial_use_only_the_networks_that_allow_it_are_offered(
    two_licences: Path,
) -> None:
    catalog = ModelCatalog(two_licences, commercial_only=True)
    await catalog.rescan()
    assert catalog.get("mix").supported_scales == (2,)
    assert catalog.get("mix").card.license == "MIT"
    with pytest.raises(UnknownModelError):
        catalog.get("mix-x4")
    (left_out,) = catalog.rejected
    assert left_out.name == "mix-x4"
    assert left_out.reason.startswith("Its licence is CC-BY-NC-4.0, which is not known to allow")
    assert left_out.reason.endswith("in mix-x4.yaml, or write commercial_use: true there.")


async def test_the_models_card_completes_those_of_its_networks(two_licences: Path) -> None:
    (two_licences / "mix-x4.yaml").write_text("author: Bo")
    (two_licences / "mix.yaml").write_text("license: MIT\ndescription: Maps")
    catalog = ModelCatalog(two_licences, commercial_only=True)
    await catalog.rescan()
    model = catalog.get("mix")
    assert model.supported_scales == (2, 4)
    assert model.card == ModelCard(license="MIT", author="Bo", description="Maps")


async def test_a_card_can_say_that_a_licence_of_ones_own_allows_commercial_use(
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(write_repeater, tmp_path, "ours", 2)
    (tmp_path / "ours.yaml").write_text("license: House rules")
    catalog = ModelCatalog(tmp_path, commercial_only=True)
    await catalog.rescan()
    assert [item.name for item in catalog.rejected] == ["ours"]
    (tmp_path / "ours.yaml").write_text("license: House rules\ncommercial_use: true")
    await catalog.rescan()
    assert [model.card.license for model in catalog.models] == ["House rules"]
