"""Model cards: facts that a network does not hold, in ``NAME.yaml`` beside the pair."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import yaml

from upscaled import files
from upscaled.models import licenses

_LARGEST = 64 << 10
"""Bytes of the largest card that is read."""
_LONGEST = 500
"""Characters of a text in a card."""

UNKNOWN_LICENSE = licenses.UNKNOWN


class Purpose(StrEnum):
    """What pictures a model is for, as far as its card tells."""

    PHOTOS = "photos"
    DRAWINGS = "drawings"
    ANY = "any"
    UNKNOWN = "unknown"


_WORDS: Mapping[Purpose, re.Pattern[str]] = {
    Purpose.DRAWINGS: re.compile(
        r"\b(?:anim(?:e|ation)|cartoons?|drawings?|illustrations?|manga|comics?|line ?art)\b", re.I
    ),
    Purpose.PHOTOS: re.compile(r"\b(?:photos?|photographs?|faces?|general)\b", re.I),
}


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model; None where they are not known."""

    license: str | None = None
    """SPDX identifier, or the licence's name."""
    author: str | None = None
    description: str | None = None
    source: str | None = None
    """Where it was published."""
    architecture: str | None = None
    size: str | None = None
    """In the family's words: ``64 features, 23 blocks``."""
    parameters: int | None = None
    original_sha256: str | None = None
    """Of the file that was imported."""
    commercial_use: bool | None = None
    """Whether commercial use is allowed, where the licence's name does not tell."""

    @property
    def commercial(self) -> bool:
        """Whether it is known that commercial use is allowed."""
        if self.commercial_use is not None:
            return self.commercial_use
        return licenses.allows_commercial_use(self.license)

    def completed_by(self, other: ModelCard) -> ModelCard:
        """Return this card, with the other's facts where this one has none."""
        known = {key: value for key, value in vars(self).items() if value is not None}
        return replace(other, **known)

    @property
    def purpose(self) -> Purpose:
        """What pictures it is for, by the words of its description."""
        if self.description is None:
            return Purpose.UNKNOWN
        found = [one for one, words in _WORDS.items() if words.search(self.description)]
        return found[0] if len(found) == 1 else Purpose.ANY

    @property
    def origin_line(self) -> str:
        """What the network is, who trained it and where it comes from, as far as it is known."""
        parts = [self.architecture, self.size]
        if self.parameters:
            parts.append(f"{counted(self.parameters)} parameters")
        if self.author:
            parts.append(f"by {self.author}")
        return ", ".join(part for part in (*parts, self.source) if part)


_REAL_ESRGAN = ModelCard(
    license="BSD-3-Clause",
    author="Xintao Wang and others",
    source="https://github.com/xinntao/Real-ESRGAN",
)
OFFICIAL_CARDS: Mapping[str, ModelCard] = MappingProxyType(
    {
        "realesrgan-x4plus": replace(
            _REAL_ESRGAN,
            description="General purpose, high quality",
            architecture="ESRGAN",
            size="64 features, 23 blocks",
            parameters=16_697_987,
        ),
        "realesrgan-x4plus-anime": replace(
            _REAL_ESRGAN,
            description="Optimized for anime illustrations, high quality",
            architecture="ESRGAN",
            size="64 features, 6 blocks",
            parameters=4_467_779,
        ),
        "realesr-animevideov3": replace(
            _REAL_ESRGAN,
            description="Optimized for anime/animation",
            architecture="Compact",
            size="64 features, 18 convolutions, prelu",
            parameters=621_424,
        ),
    }
)
"""Of the official models, by name. A card beside the pair replaces them."""


def merged(cards: Sequence[ModelCard]) -> ModelCard:
    """Return one card for the networks of a model: what is true of all of them.

    Their licences are joined by AND, and authors and sources are listed. The description is the
    first one. A fact that differs is left out.
    """

    def different(name: str) -> list[object]:
        values = (getattr(card, name) for card in cards)
        return list(dict.fromkeys(value for value in values if value is not None))

    facts: dict[str, object] = {}
    for field in fields(ModelCard):
        values = different(field.name)
        if len(values) == 1 or (values and field.name in {"description", "original_sha256"}):
            facts[field.name] = values[0]
        elif values and field.name in {"author", "source"}:
            facts[field.name] = ", ".join(map(str, values))
    facts["license"] = licenses.joined([card.license for card in cards])
    return ModelCard(**facts)  # type: ignore[arg-type]


def counted(number: int) -> str:
    """Return for example ``16.70 million`` or ``2,884``."""
    return f"{number / 1e6:.2f} million" if number >= 100_000 else f"{number:,}"


def card_path(models_dir: Path, name: str) -> Path:
    """Return the path of a model's card."""
    return models_dir / f"{name}.yaml"


def read_card(path: Path) -> ModelCard | None:
    """Return a model's card; None if there is none; blocking.

    Raises:
        ValueError: the file is not a card; the message says what to change.
        OSError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    if len(content) > _LARGEST:
        raise ValueError(f"{path.name} has more than {_LARGEST >> 10} KiB")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{path.name} is not YAML") from None
    if document is None:
        return ModelCard()
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} must hold lines such as license: MIT")
    known = {field.name for field in fields(ModelCard)}
    values: dict[str, object] = {}
    for key, value in document.items():
        if key not in known or value is None:
            continue
        if key == "parameters":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"parameters in {path.name} must be a whole number")
            values[key] = value
        elif key == "commercial_use":
            if not isinstance(value, bool):
                raise ValueError(f"commercial_use in {path.name} must be true or false")
            values[key] = value
        elif text := _line(str(value)):
            values[key] = text
    return ModelCard(**values)  # type: ignore[arg-type]


def _line(text: str) -> str:
    """Return a text of anybody's as one line that a terminal can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST]


def write_card(path: Path, card: ModelCard) -> None:
    """Write a card, replacing an older one; blocking.

    Raises:
        OSError: it can't be written.
    """
    known = {key: value for key, value in asdict(card).items() if value is not None}
    files.replace(path, yaml.safe_dump(known, sort_keys=False, allow_unicode=True).encode())
