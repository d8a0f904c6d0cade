"""The benches run, and say what they found; no figure is asserted here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from bench import compare, document, report
from bench.everything import BENCHES, ROOT, main, summary
from bench.report import Figure, Report, figures_of, number
from testkit import photos
from testkit.memory import memory, processor_seconds
from testkit.png_rows import PngError, png_strips


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results of this test go."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


def a_result(name: str, *figures: Figure) -> None:
    Report(name, figures=list(figures)).finish()


@pytest.mark.parametrize("bench", sorted({bench.module or bench.name for bench in BENCHES}))
def test_every_bench_has_a_command_line_with_a_quick_form(
    bench: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"bench.{bench}", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{bench}").main()
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out


def test_every_bench_has_one_place_in_the_documents() -> None:
    text = "".join(path.read_text("utf-8") for path in document.DOCUMENTS)
    places = {one.name: text.count(f"<!-- bench {one.name} -->") for one in BENCHES}
    assert places == dict.fromkeys(places, 1)


def test_an_unknown_bench_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nosuch"])
    assert "there is no bench nosuch" in capsys.readouterr().err


def _temporary(process: psutil.Process) -> Path | None:
    """Return the folder that a process keeps its temporary files in."""
    try:
        return Path(process.environ().get("TMPDIR", ""))
    except psutil.Error:  # ended meanwhile, or somebody else's
        return None


def test_a_bench_runs_against_a_real_server_and_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from bench import report, small_pictures;"
        f"report.RESULTS = pathlib.Path({str(tmp_path)!r});"
        "sys.argv[1:] = '--quick --pictures 4 --rounds 1 --alone 1'.split();"
        "small_pictures.main()"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # which every process of it inherits
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=env, capture_output=True)
    result = json.loads((tmp_path / "quick" / "small_pictures.json").read_text("utf-8"))
    assert all(figure["value"] > 0 for figure in result["figures"])
    assert [figure["target"] for figure in result["figures"][:2]] == [10.0, 1 / 1.5]
    assert result["machine"]["cores"] >= 1
    assert {"server", "engines", "imaging"} <= set(result["details"]["processor_ms_a_picture"])
    assert [process for process in psutil.process_iter() if _temporary(process) == tmp_path] == []


@pytest.mark.parametrize(
    ("sense", "value", "met"),
    [
        ("at most", 1.0, True), ("at most", 1.1, False), ("at least", 1.0, True),
        ("at least", 0.9, False), ("under", 1.0, False), ("over", 1.0, False),
    ],
)  # fmt: skip
def test_a_figure_is_held_against_its_target(sense: report.Sense, value: float, met: bool) -> None:
    figure = Figure("what", value, target=1.0, sense=sense)
    assert figure.met is met
    assert replace(figure, value=None).met is None


def test_numbers_keep_the_digits_that_count() -> None:
    assert [number(value) for value in (12345.6, 3.14159, 0.0123, 7.0)] == [
        "12,346", "3.14", "0.012", "7",
    ]  # fmt: skip
    assert number(4.25, "%") == "4.2 %"


def test_the_summary_tells_what_was_missed_and_what_failed(results: Path) -> None:
    a_result("http", Figure("rate", 0.5, target=0.6, sense="at least"), Figure("told", 3.0))
    a_result("gpu", Figure("rate on a GPU", None, target=1.0, note="there is none here"))
    text, good = summary(["http", "gpu", "huge"], ["huge"], results)
    assert not good
    assert "| http | rate | at least 0.60 | 0.50 | **missed** |" in text
    assert "told" not in text
    assert "| gpu | rate on a GPU (there is none here) | at most 1 | not measured |  |" in text
    assert "| huge | **the bench failed** |" in text


def test_the_document_takes_the_tables_and_keeps_the_words(results: Path) -> None:
    a_result("http", Figure("rate", 0.7, target=0.6, sense="at least"))
    result = document.load(results / "http.json")
    assert result is not None
    assert figures_of(result)[0].value == 0.7
    text = "Before.\n<!-- bench http -->\nold\n<!-- /bench -->\nAfter.\n<!-- bench gpu -->\nx\n"
    new = document.rewritten(text + "<!-- /bench -->\n", {"http": result})
    assert "\nold\n" not in new  # the command, which is in the text, may have such a word
    assert "| rate | at least 0.60 | 0.70 | met |" in new
    assert new.startswith("Before.\n<!-- bench http -->\n")
    assert new.endswith("<!-- /bench -->\nAfter.\n<!-- bench gpu -->\nx\n<!-- /bench -->\n")
    assert document.rewritten(new, {"http": result}) == new


def test_two_versions_are_compared_figure_by_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {
        "before": (Figure("rate", 0.8, target=0.6, sense="at least"), Figure("took", 2.0, "s")),
        "after": (Figure("rate", 0.4, target=0.6, sense="at least"), Figure("duration", 2.1, "s")),
    }
    for version, figures in versions.items():
        monkeypatch.setattr(report, "RESULTS", tmp_path / version)
        a_result("http", *figures)
        if version == "before":
            a_result("huge", Figure("memory", 700.0, "MiB"))
    capsys.readouterr()
    assert compare.main([str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    text = capsys.readouterr().out
    assert "| rate | 0.80 | 0.40 | 0.50 | **worse** |" in text
    assert "| duration (was: took) | 2 s | 2.10 s | 1.05 |  |" in text
    assert "## huge\n\nThere is no result after." in text
    assert compare.main([str(tmp_path), str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("before", "after", "cells"),
    [
        (Figure("x", 10.0, target=9.0), Figure("x", 8.0, target=9.0), ["0.80", "better"]),
        (Figure("x", 10.0, "s"), Figure("x", 12.0, "s"), ["1.20", "changed"]),
        (Figure("x", -1.0, "%"), Figure("x", 2.0, "%"), ["", ""]),
        (Figure("x", None), Figure("x", 2.0), ["", ""]),
        (None, Figure("x", 2.0), ["", ""]),
    ],
)
def test_a_ratio_is_shown_where_it_means_something(
    before: Figure | None, after: Figure, cells: list[str]
) -> None:
    assert compare.row(before, after, noise=10)[3:] == cells


def test_a_result_is_read_in_strips_and_damage_is_noticed(tmp_path: Path) -> None:
    pixels = photos.photo(90, 70)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(np.concatenate(list(png_strips(path, 16))), pixels)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b"GIF89a"):
        path.write_bytes(damaged)
        with pytest.raises(PngError):
            list(png_strips(path, 16))


def test_descendants_count_and_shared_pages_count_once() -> None:
    code = (
        "import os, sys, time\n"
        "while time.process_time() < 0.05: pass\n"  # the system counts in hundredths
        "os.fork() and print(flush=True); sys.stdin.read()"
    )
    with psutil.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"\n"  # it has forked
        held = memory(process.pid)
        roles = processor_seconds(process.pid)
        process.communicate()
    assert held.processes == 2
    assert held.root <= held.summed
    assert held.shared_once < held.summed
    assert "server" in roles
