"""Stores measurements of networks across restarts, in a small JSON file."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from upscaled import files, serial
from upscaled.engines.builtin.protocol import Findings

log = logging.getLogger(__name__)

_FORMAT = 1
"""Increase it when measurements change; older files are then ignored."""

Outcome = Findings | str
"""What was found, or the reason why a network can't be used."""


@dataclass(frozen=True)
class _Document:
    """The content of the file."""

    format: int
    outcomes: dict[str, Outcome]


class FindingsCache:
    """Outcomes by key, in memory and, where ``file`` is given, on disk."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._outcomes: dict[str, Outcome] = {}
        self._loaded = file is None
        self._changed = False

    def get(self, key: str) -> Outcome | None:
        """Return the outcome of ``key``, or None."""
        return self._outcomes.get(key)

    def put(self, key: str, outcome: Outcome) -> None:
        """Remember ``outcome``; `keep` writes it to the file."""
        self._outcomes[key] = outcome
        self._changed = True

    async def load(self) -> None:
        """Read the file on the first call; an unreadable one counts as empty."""
        if self._file is not None and not self._loaded:
            self._outcomes = await asyncio.to_thread(_read, self._file)
        self._loaded = True

    async def keep(self, keys: set[str]) -> None:
        """Forget all but ``keys``, and write the file if anything changed."""
        gone = self._outcomes.keys() - keys
        for key in gone:
            del self._outcomes[key]
        if self._file is not None and (gone or self._changed):
            await asyncio.to_thread(_write, self._file, dict(self._outcomes))
        self._changed = False


def _read(file: Path) -> dict[str, Outcome]:
    try:
        document = serial.decode(file.read_bytes(), _Document)
        for found in document.outcomes.values():
            if isinstance(found, Findings) and min(found.native_scale, found.bytes_per_pixel) < 1:
                raise ValueError("a measurement below 1")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s can't be read (%s); the models are measured again.", file, error)
        return {}
    return document.outcomes if document.format == _FORMAT else {}


def _write(file: Path, outcomes: dict[str, Outcome]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.replace(file, serial.encode(_Document(_FORMAT, outcomes)))
    except OSError as error:
        # Without it the next start measures again; nothing else is lost.
        log.warning("%s can't be written: %s.", file, error.strerror)
