"""When a file counts as complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from upscaled.batch.settling import Settling, is_being_written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"some")
    return path


def complete(settling: Settling, file: Path, now: float) -> bool:
    return [path for path, _ in settling.look([file], now)] == [file]


def test_a_file_is_complete_when_it_did_not_change_for_a_while(file: Path) -> None:
    settling = Settling(2)
    assert not complete(settling, file, 0)
    assert not complete(settling, file, 1.9)
    file.write_bytes(b"something")
    assert not complete(settling, file, 3)
    assert not complete(settling, file, 4.9)
    assert complete(settling, file, 5)
    assert settling.unchanged_since(file) == 3


def test_a_change_that_keeps_size_and_time_is_seen(file: Path) -> None:
    settling = Settling(2)
    assert not complete(settling, file, 0)
    before = file.stat()
    file.write_bytes(b"else")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not complete(settling, file, 2)
    assert complete(settling, file, 4)


def test_a_file_that_somebody_writes_is_not_complete(file: Path) -> None:
    settling = Settling(2)
    with file.open("ab"):
        if not is_being_written(file):
            pytest.skip("this file system knows no leases")
        assert not complete(settling, file, 0)
        assert not complete(settling, file, 100)
    with file.open("rb"):  # readers do not matter
        assert complete(settling, file, 101)


def test_an_empty_file_waits_longer(file: Path) -> None:
    file.write_bytes(b"")
    settling = Settling(2)
    assert not complete(settling, file, 0)
    assert not complete(settling, file, 59)
    assert complete(settling, file, 60)


def test_a_file_that_goes_away_is_forgotten(file: Path) -> None:
    settling = Settling(2)
    assert not complete(settling, file, 0)
    content = file.read_bytes()
    file.unlink()
    assert not complete(settling, file, 1)
    assert settling.unchanged_since(file) is None
    file.write_bytes(content)
    assert not complete(settling, file, 3)
