"""Model cards: facts that a network does not hold, in ``NAME.yaml`` beside the pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

import yaml

from upscaled import files

_LARGEST = 64 << 10
"""Bytes of the largest card that is read."""
_LONGEST = 500
"""Characters of a text in a card."""

UNKNOWN_LICENSE = "unknown"
_RESTRICTIONS = (UNKNOWN_LICENSE, "-nc", "noncommercial", "non-commercial", "research", "personal")


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

    @property
    def commercial(self) -> bool:
        """Whether the licence is known and, by its name, does not forbid commercial use."""
        text = (self.license or UNKNOWN_LICENSE).lower()
        return not any(mark in text for mark in _RESTRICTIONS)

    @property
    def origin_line(self) -> str:
        """What the network is, who trained it and where it comes from, as far as it is known."""
        parts = [self.architecture, self.size]
        if self.parameters:
            parts.append(f"{self.parameters / 1e6:.2f} million parameters")
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
        else:
            values[key] = str(value)[:_LONGEST]
    return ModelCard(**values)  # type: ignore[arg-type]


def write_card(path: Path, card: ModelCard) -> None:
    """Write a card, replacing an older one; blocking.

    Raises:
        OSError: it can't be written.
    """
    known = {key: value for key, value in asdict(card).items() if value is not None}
    files.replace(path, yaml.safe_dump(known, sort_keys=False, allow_unicode=True).encode())
