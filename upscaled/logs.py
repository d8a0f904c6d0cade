"""Log lines on standard error: one per event, as text or JSON.

Modules log with the standard library: ``logging.getLogger(__name__).info("job finished",
extra={"job": id, "seconds": 1.2})``. The members of ``extra`` become ``key=value`` pairs or JSON
members. An event is always one line, whatever a caller's file name contains. Events that are
logged while a request is handled carry its id as ``request``.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from upscaled.config.settings import LoggingSettings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the HTTP request that is being handled; None elsewhere."""

# The attributes that every record has; all others come from ``extra``.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _extras(record: logging.LogRecord) -> dict[str, object]:
    extras = {key: value for key, value in vars(record).items() if key not in _OWN}
    request = request_id.get()  # handlers run where the event is logged, so it is that event's
    return extras if request is None else {**extras, "request": request}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


codecs.lookup("unicode_escape")  # its first use opens a file, for which there may be no descriptor


def _one_line(text: str) -> str:
    """Escape characters that end a line or move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def _value(value: object) -> str:
    """Return an extra as text, quoted where it would be ambiguous."""
    text = str(value)
    plain = text and not any(char.isspace() or char in '="\\' for char in text)
    if plain and text.isprintable():
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO upscaled.jobs.queue: job finished job=17… seconds=1.2``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event as one line, a traceback's lines joined by escaped line ends."""
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        extras = "".join(f" {key}={_value(value)}" for key, value in _extras(record).items())
        return _one_line(line) + extras


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger``, ``message`` and the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event as one JSON object; JSON itself escapes line ends."""
        # Extras first: one named "level" must not replace the real one.
        event: dict[str, object] = _extras(record)
        event |= {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, separators=(",", ":"))


class _JournalFormatter(logging.Formatter):
    """Puts the priority in front of each line, as journald reads it (sd-daemon(3))."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the inner format's line behind its priority."""
        return priority_prefix(record.levelno) + self._inner.format(record)


def priority_prefix(level: int) -> str:
    """Return a logging level as journald's priority: ``<4>`` for a warning."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return f"<{next((priority for least, priority in steps if level >= least), 7)}>"


def goes_to_journal(stream: TextIO) -> bool:
    """Tell whether ``stream`` is the journal: systemd names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file behind it, as in tests
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def configure(settings: LoggingSettings, stream: TextIO | None = None) -> logging.Handler:
    """Send all events of ``settings.level`` and above to ``stream``, standard error by default.

    Replaces what an earlier call set up. Returns the handler.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.set_name("upscaled")
    formatter = JsonFormatter() if settings.format == "json" else TextFormatter()
    handler.setFormatter(_JournalFormatter(formatter) if goes_to_journal(stream) else formatter)
    root = logging.getLogger()
    for previous in [h for h in root.handlers if h.get_name() == "upscaled"]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    # One line for each request only if the settings ask for it, whatever the level.
    logging.getLogger("aiohttp.access").disabled = not settings.access
    # Pillow logs each chunk of a file at debug level ("STREAM b'IHDR' 16 13").
    logging.getLogger("PIL").setLevel(max(logging.INFO, root.level))
    return handler
