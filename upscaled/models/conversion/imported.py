"""What came of an import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """What the check measured."""

    decibels: dict[str, float]
    """By engine library: the least agreement with the definition over the tile sizes."""
    seam_decibels: float
    """The picture in tiles against the picture in one tile; low where the network looks further
    than the padding of 10 pixels reaches."""
    colour_shift: float
    """Levels, of the channel whose mean differs most from the source's."""


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    name: str
    architecture: str
    size: str
    """In the family's words: ``64 features, 23 blocks``."""
    scale: int
    parameters: int
    half: bool
    """The weights are stored in 16 bits."""
    agreement: Agreement
