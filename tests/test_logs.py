"""Log lines: one per event, readable by people or by programs, unbreakable from outside."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from upscaled import logs
from upscaled.config.settings import LoggingSettings


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream to log to; the root logger is as before afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    access = logging.getLogger("aiohttp.access").disabled
    pil = logging.getLogger("PIL").level
    yield io.StringIO()
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.getLogger("aiohttp.access").disabled = access
    logging.getLogger("PIL").setLevel(pil)


def test_text_names_time_level_logger_message_and_extras(stream: io.StringIO) -> None:
    logs.configure(LoggingSettings(), stream)
    logging.getLogger("upscaled.jobs.queue").info(
        "job %s", "done", extra={"job": "17", "seconds": 1.5}
    )
    line = stream.getvalue()
    assert line.endswith("Z INFO upscaled.jobs.queue: job done job=17 seconds=1.5\n")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "name", ["a\nb ERROR forged", "a\rb", "\x1b[2J", "a\u2028b", "\ud800", 'x" level="y', ""]
)
def test_a_hostile_file_name_stays_on_one_line(stream: io.StringIO, form: str, name: str) -> None:
    # pytest's own handlers keep what is logged, and its processes can't pass a lone surrogate on.
    logging.getLogger().handlers.clear()
    logs.configure(LoggingSettings(format=form), stream)
    logging.getLogger("upscaled.api").warning("got %s", name, extra={"file": name})
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert text.rstrip("\n").isprintable()
    text.encode("utf-8")


def test_text_quotes_extras_that_could_be_mistaken(stream: io.StringIO) -> None:
    logs.configure(LoggingSettings(), stream)
    logging.getLogger("upscaled").info("x", extra={"file": "a b=c", "empty": ""})
    assert stream.getvalue().endswith(': x file="a b=c" empty=""\n')


def test_json_is_one_compact_object_per_event_and_extras_hide_nothing(stream: io.StringIO) -> None:
    logs.configure(LoggingSettings(format="json"), stream)
    logging.getLogger("upscaled.jobs.queue").error("no", extra={"job": "17", "level": "forged"})
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "error",
        "logger": "upscaled.jobs.queue",
        "message": "no",
        "job": "17",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_part_of_its_event(stream: io.StringIO, form: str) -> None:
    logs.configure(LoggingSettings(format=form), stream)
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger("upscaled").exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: the cause" in line
    assert "test_logs.py" in line


def test_events_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logs.configure(LoggingSettings(level="warning"), stream)
    logging.getLogger("upscaled").info("small")
    logging.getLogger("upscaled").warning("big")
    assert "small" not in stream.getvalue()
    assert "big" in stream.getvalue()


def test_configuring_again_replaces_the_handler(stream: io.StringIO) -> None:
    logs.configure(LoggingSettings(), io.StringIO())
    logs.configure(LoggingSettings(), stream)
    logging.getLogger("upscaled").warning("once")
    assert stream.getvalue().count("once") == 1


@pytest.mark.parametrize("access", [True, False])
def test_requests_are_logged_only_where_asked_for(stream: io.StringIO, access: bool) -> None:
    logs.configure(LoggingSettings(access=access, level="debug"), stream)
    logging.getLogger("aiohttp.access").info("GET /")
    assert ("GET /" in stream.getvalue()) is access


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_journal_gets_each_lines_priority(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    del stream  # only puts the loggers back afterwards
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure(LoggingSettings(format=form, level="debug"), journal)
        log = logging.getLogger("upscaled")
        for write in (log.debug, log.info, log.warning, log.error, log.critical):
            write("x")
        journal.seek(0)
        assert [line[:3] for line in journal] == ["<7>", "<6>", "<4>", "<3>", "<2>"]


def test_elsewhere_lines_have_no_priority(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")  # inherited from a service, then redirected
    with (tmp_path / "file").open("w+") as file:
        logs.configure(LoggingSettings(), file)
        logging.getLogger("upscaled").warning("x")
        file.seek(0)
        assert not file.read().startswith("<")
    logs.configure(LoggingSettings(), stream)
    logging.getLogger("upscaled").warning("x")
    assert not stream.getvalue().startswith("<")
