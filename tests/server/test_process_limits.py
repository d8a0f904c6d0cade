"""Limits below ours (``ulimit``) stop no job that fits; the start says what will not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testkit.paths import DATA
from upscaled.config.sources import load
from upscaled.server import room

_TOO_LONG = "longer than the limit on the server's files (ulimit -f); send a smaller picture"

_CODE = """
import asyncio, sys, tempfile
from pathlib import Path
from upscaled.config.sources import load
from upscaled.errors import NoSpaceError
from upscaled.imaging import Imaging
from upscaled.jobs.workspace import claim
from upscaled.server import process_limits

async def main():
    for sentence in process_limits.complaints(load(environ={})):
        print(sentence)
    imaging = Imaging(max_pixels=10_000_000)
    try:
        print((await imaging.probe(Path(sys.argv[1]))).size)
        with tempfile.TemporaryDirectory() as folder:
            try:
                print((await imaging.prepare(Path(sys.argv[1]), Path(folder))).source.size)
            except NoSpaceError as error:
                print(error.message)
            try:
                await claim(Path(folder) / "pixels", 1_000_000, keep=False)
            except NoSpaceError as error:
                print(error.message)
    finally:
        await imaging.close()

asyncio.run(main())
"""


# Root may raise hard limits; without this capability it may not, as everybody else.
_WITHOUT_PRIVILEGE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24
if os.geteuid() == 0:
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def look(*shell: str) -> list[str]:
    """Decode a picture in a process that a shell started after the commands ``shell``.

    Returns:
        The complaints, then the picture's size as probed and as decoded, or why it was not.
        Then why a file of 1 MB can't be made, if so.
    """
    script = "; ".join([*shell, 'exec "$0" "$@"'])
    inner = ["-c", _CODE, str(DATA / "coffee.jpg")]
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, "-c", _WITHOUT_PRIVILEGE, *inner],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("-v 3000000", "Start the server with `ulimit -v unlimited`."),
        ("-d 3000000", "Start the server with `ulimit -d unlimited`."),
        ("-f 20000", "has more than about 6.8 megapixels fail"),
        ("-t 30", "ends each process after 30 seconds of computing (ulimit -t)"),
    ],
)
def test_decoders_work_below_hard_limits_that_cannot_be_raised(limit: str, told: str) -> None:
    sentence, probed, prepared = look(f"ulimit {limit}")
    assert probed == prepared == "600×400"
    assert told in sentence


def test_a_limit_on_the_length_of_files_is_not_called_a_full_disk() -> None:
    _, probed, prepared, claimed = look("ulimit -f 500")
    assert probed == "600×400"
    assert _TOO_LONG in prepared
    assert _TOO_LONG in claimed


def test_without_such_limits_there_is_nothing_to_tell() -> None:
    assert look() == ["600×400", "600×400"]


def test_too_little_memory_for_any_job_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(environ={}, flags={"storage.data_dir": str(tmp_path / "not made yet")})
    assert room.complaints(config) == []
    monkeypatch.setattr(room, "available", lambda: 90 << 20)
    (sentence,) = room.complaints(config)
    assert "and 90 MiB are there" in sentence
    assert "every picture is refused" in sentence


def test_a_disk_that_holds_no_photos_job_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(environ={}, flags={"storage.data_dir": str(tmp_path)})
    monkeypatch.setattr(room, "free_bytes", lambda _: 300 << 20)
    (sentence,) = room.complaints(config)
    assert f"{tmp_path} has 236 MiB of disk for jobs" in sentence
    assert "2 megapixels" in sentence
