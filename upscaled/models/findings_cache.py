"""Measurements of networks kept over restarts, as a small JSON file."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

from upscaled.engines.builtin.messages import Findings

log = logging.getLogger(__name__)

_FORMAT = 1
"""Raised when what is measured, or how, changes: older files are then measured anew."""

Outcome = Findings | str
"""What was found, or the reason why a network can't be used."""


class FindingsCache:
    """Outcomes by key, in memory and, where ``file`` is given, on disk."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._outcomes: dict[str, Outcome] = {}
        self._loaded = file is None
        self._changed = False

    def get(self, key: str) -> Outcome | None:
        """Return what was found under ``key``, or None."""
        return self._outcomes.get(key)

    def put(self, key: str, outcome: Outcome) -> None:
        """Remember ``outcome``; `keep` writes it down."""
        self._outcomes[key] = outcome
        self._changed = True

    async def load(self) -> None:
        """Read the file, the first time; one that can't be read counts as empty."""
        if self._file is not None and not self._loaded:
            self._outcomes = await asyncio.to_thread(_read, self._file)
        self._loaded = True

    async def keep(self, keys: set[str]) -> None:
        """Forget all but ``keys``, and write the file where that or `put` changed something."""
        gone = self._outcomes.keys() - keys
        for key in gone:
            del self._outcomes[key]
        if self._file is not None and (gone or self._changed):
            await asyncio.to_thread(_write, self._file, dict(self._outcomes))
        self._changed = False


def _read(file: Path) -> dict[str, Outcome]:
    try:
        document: Any = json.loads(file.read_text("utf-8"))
        if document["format"] != _FORMAT:
            return {}
        return {
            str(key): entry if isinstance(entry, str) else _findings(entry)
            for key, entry in document["outcomes"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s can't be read (%s); the models are measured anew.", file, error)
        return {}


def _findings(entry: dict[str, Any]) -> Findings:
    findings = Findings(**{key: int(value) for key, value in entry.items()})
    if min(findings.native_scale, findings.bytes_per_pixel) < 1:
        raise ValueError("a measurement below 1")
    return findings


def _write(file: Path, outcomes: dict[str, Outcome]) -> None:
    document = {
        "format": _FORMAT,
        "outcomes": {
            key: outcome if isinstance(outcome, str) else dataclasses.asdict(outcome)
            for key, outcome in outcomes.items()
        },
    }
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(document, indent=1), "utf-8")
        beside.replace(file)
    except OSError as error:
        # Without it the next start measures again, and that is all.
        log.warning("%s can't be written: %s.", file, error.strerror)
    finally:
        beside.unlink(missing_ok=True)
