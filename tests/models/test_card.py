"""Model cards, read from files that people write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testkit.networks import write_repeater
from upscaled.models.card import OFFICIAL_CARDS, ModelCard, read_card, write_card
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


@pytest.mark.parametrize(
    ("license_", "commercial"),
    [
        ("BSD-3-Clause", True), ("CC-BY-4.0", True), ("CC-BY-NC-SA-4.0", False),
        ("Non-Commercial", False), (None, False), ("unknown", False),
    ],
)  # fmt: skip
def test_a_licence_tells_whether_commercial_use_is_allowed(
    license_: str | None, commercial: bool
) -> None:
    assert ModelCard(license=license_).commercial is commercial


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
