"""What a service has learned of the speed of work, read by programs that run beside it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


class LearnedRates:
    """The rates in a service's database; it is never written to.

    Args:
        file: the database; it may be missing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    async def load_rates(self) -> Mapping[str, str]:
        """Return all rates by key; none where they can't be read."""
        return await asyncio.to_thread(self._load)

    async def save_rates(self, rates: Mapping[str, str]) -> None:
        """Do nothing: rates are learned by the service."""

    def _load(self) -> dict[str, str]:
        try:
            address = f"file:{quote(str(self._file))}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=2)) as database:
                return dict(database.execute("SELECT key, document FROM rates").fetchall())
        except sqlite3.Error:
            return {}
