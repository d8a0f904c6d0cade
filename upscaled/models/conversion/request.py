"""The wish to import a model, checked as far as that takes no work; loads no numeric library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from upscaled.models.card import UNKNOWN_LICENSE, ModelCard
from upscaled.models.conversion.errors import ConversionError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Words:
    """How messages say what to change, in the terms of the command line or the API."""

    name: str = "give one with --name"
    taken: str = "give another --name, or --force to replace it"
    license: str = "name it with --license"


@dataclass(frozen=True)
class ImportRequest:
    """What is to be imported, and what is known of it."""

    source: Path
    name: str | None = None
    """Of the model; None: the file's own name."""
    license: str | None = None
    """SPDX identifier, or the licence's name."""
    author: str | None = None
    description: str | None = None
    origin: str | None = None
    """Where it was published."""
    activation: str | None = None
    """``relu`` or ``leakyrelu``, for Compact networks whose file does not name it."""
    replace: bool = False
    """A model of the same name may be replaced."""
    file: str | None = None
    """Name of the file as its owner knows it; None: that of ``source``."""
    words: Words = Words()

    @property
    def file_name(self) -> str:
        """Return the file's name for messages."""
        return self.source.name if self.file is None else self.file


def checked_name(request: ImportRequest) -> str:
    """Return the name that the model gets.

    Raises:
        ConversionError: it is not allowed.
    """
    name = request.name
    if name is None:
        stem = Path(request.file_name).stem
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).strip("-._+")[:100]
    if not _NAME.fullmatch(name):
        raise ConversionError(
            f"{name!r} is not a valid model name. A name starts with a letter or digit, then come "
            f"letters, digits and ._+- (at most 100 characters); {request.words.name}."
        )
    return name


def check_free(request: ImportRequest, models_dir: Path, name: str) -> None:
    """Refuse a name that is taken, unless the model may be replaced; blocking.

    Raises:
        ConversionError: it is taken.
    """
    taken = any((models_dir / f"{name}{ending}").exists() for ending in (".param", ".bin"))
    if taken and not request.replace:
        raise ConversionError(f"There is a model {name} already; {request.words.taken}.")


def check_commercial(request: ImportRequest) -> None:
    """Refuse a licence that is not known to allow commercial use.

    Raises:
        ConversionError: it is none.
    """
    if not ModelCard(license=request.license).commercial:
        raise ConversionError(
            f"The licence is {request.license or UNKNOWN_LICENSE}, and only models whose licence "
            "is known to allow commercial use are offered here (upscaler.commercial_models_only); "
            f"{request.words.license}."
        )
