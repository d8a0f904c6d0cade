"""The ledger: what is current, what a torn line does, who else may write it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
from pathlib import Path

import pytest

from upscaled.batch.ledger import Ledger, LedgerEntry, Signature, is_current
from upscaled.errors import ConfigError
from upscaled.files import sha256_of

OPTIONS = {"scale": "2", "format": "png"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    path.write_bytes(b"picture")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/in.png").write_bytes(b"result")
    return tmp_path / "out"


def entry_of(source: Path, target: str = "in.png") -> LedgerEntry:
    return LedgerEntry(target, str(source), Signature.of(source), sha256_of(source), OPTIONS, 6)


def run_of(out: Path) -> contextlib.closing[Ledger]:
    """Open the ledger for one run, which ends with the block."""
    return contextlib.closing(Ledger(out))


def test_what_was_recorded_is_there_in_the_next_run(source: Path, out: Path) -> None:
    with run_of(out) as ledger:
        ledger.put(entry_of(source))
    with run_of(out) as ledger:
        assert ledger.get(out / "in.png") == entry_of(source)
        assert is_current(ledger.get(out / "in.png"), out / "in.png", source, OPTIONS)


def test_a_torn_last_line_costs_that_line_only(source: Path, out: Path) -> None:
    with run_of(out) as ledger:
        ledger.put(entry_of(source))
        ledger.put(entry_of(source, "torn.png"))
    file = out / ".upscaled/ledger.jsonl"
    os.truncate(file, file.stat().st_size - 5)
    with run_of(out) as ledger:
        assert ledger.get(out / "torn.png") is None
        ledger.put(entry_of(source, "next.png"))
    with run_of(out) as ledger:
        assert ledger.get(out / "in.png")
        assert ledger.get(out / "next.png")


def test_a_full_disk_costs_the_line_that_has_no_room(source: Path, out: Path) -> None:
    with run_of(out) as ledger:
        ledger.put(entry_of(source))
        size = (out / ".upscaled/ledger.jsonl").stat().st_size
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, usual[1]))  # room for part of a line
        try:
            with pytest.raises(OSError, match="No space left"):
                ledger.put(entry_of(source, "lost.png"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert ledger.get(out / "lost.png") is None
        ledger.put(entry_of(source, "next.png"))
    with run_of(out) as ledger:
        assert ledger.get(out / "in.png")
        assert ledger.get(out / "next.png")


def test_a_ledger_that_is_only_read_changes_and_locks_nothing(source: Path, out: Path) -> None:
    Ledger(out / "missing/deep", read_only=True).close()
    assert not (out / "missing").exists()
    with run_of(out) as running:
        running.put(entry_of(source))
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        ledger = Ledger(out, read_only=True)
        assert ledger.get(out / "in.png") == entry_of(source)
        ledger.close()
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_name_that_is_not_utf8_is_kept(source: Path, out: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    with run_of(out) as ledger:
        ledger.put(entry_of(source, name))
    with run_of(out) as ledger:
        assert ledger.get(out / name)


def test_outdated_lines_do_not_pile_up(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.batch.ledger._SPARE_LINES", 5)
    with run_of(out) as ledger:
        for _ in range(50):
            ledger.put(entry_of(source))
    assert len((out / ".upscaled/ledger.jsonl").read_bytes().splitlines()) <= 7
    with run_of(out) as ledger:
        assert ledger.get(out / "in.png")


def test_a_dropped_result_is_forgotten(source: Path, out: Path) -> None:
    with run_of(out) as ledger:
        ledger.put(entry_of(source))
        ledger.put(entry_of(source, "other.png"))
        ledger.drop(out / "in.png")
        ledger.drop(out / "unknown.png")
    with run_of(out) as ledger:
        assert ledger.get(out / "in.png") is None
        assert ledger.get(out / "other.png")


def test_two_runs_do_not_share_a_folder(out: Path) -> None:
    with run_of(out), pytest.raises(ConfigError, match="Another upscaled process works on"):
        Ledger(out)
    with run_of(out):
        pass


def test_only_what_changed_is_made_again(source: Path, out: Path) -> None:
    entry, target = entry_of(source), out / "in.png"
    assert is_current(entry, target, source, OPTIONS) is entry
    assert is_current(entry, target, source, {**OPTIONS, "scale": "4"}) is None
    assert (
        is_current(dataclasses.replace(entry, result_bytes=None), target, source, OPTIONS) is None
    )
    os.utime(source, (1, 1))
    touched = is_current(entry, target, source, OPTIONS)
    assert touched is not None
    assert touched.signature == Signature.of(source)
    source.rename(source.with_name("renamed.png"))
    renamed = source.with_name("renamed.png")
    assert is_current(entry, target, renamed, OPTIONS)
    before = renamed.stat()
    renamed.write_bytes(b"another")  # as long as before
    os.utime(renamed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_current(entry, target, renamed, OPTIONS) is None
    target.write_bytes(b"half")
    assert is_current(touched, target, source.with_name("renamed.png"), OPTIONS) is None
    target.unlink()
    assert is_current(touched, target, renamed, OPTIONS) is None


def test_a_folder_is_rid_of_what_a_killed_run_was_writing(out: Path) -> None:
    (out / ".upscaled").mkdir()
    left = [
        out / ".00112233445566ff.upscaled-part",
        out / ".upscaled/.00112233445566ff.upscaled-part",
    ]
    for part in left:
        part.write_bytes(b"half")
    with run_of(out):
        pass
    assert not any(part.exists() for part in left)
    assert (out / "in.png").read_bytes() == b"result"
