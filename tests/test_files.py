import asyncio
import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from testkit.waiting import settled
from upscaled import digests, files
from upscaled.digests import Digests


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    for durable, content in ((False, b"old"), (True, b"new")):
        files.replace(target, content, durable=durable)
        assert target.read_bytes() == content
    with files.replacing(target) as file:
        file.write(b"later")
        file.flush()
        assert target.read_bytes() == b"new"
    assert target.read_bytes() == b"later"
    assert list(tmp_path.iterdir()) == [target]


def test_when_writing_fails_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), files.replacing(target) as file:
        file.write(b"ne")
        raise OSError("full")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_new_file_has_the_permissions_that_were_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with files.replacing(tmp_path / "program", mode=0o755):
            pass
        files.replace(tmp_path / "record", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "program").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o600


_WRITES = """
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO
from upscaled import files
with files.replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_removed_and_what_is_in_use_stays(tmp_path: Path) -> None:
    target = tmp_path / "x"
    others = [tmp_path / name for name in (".a.part", ".0123456789abcdef.part", "b.upscaled-part")]
    for other in others:
        other.write_bytes(b"somebody's")
    with subprocess.Popen(
        [sys.executable, "-c", _WRITES, str(target)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as writer:  # fmt: skip
        assert writer.stdout
        assert writer.stdout.readline() == b"writing\n"
        files.remove_parts(tmp_path)
        (part,) = set(tmp_path.iterdir()) - set(others)
        assert files.is_part(part)
        writer.send_signal(signal.SIGKILL)
    assert part.read_bytes() == b"half"
    files.remove_parts(tmp_path)
    assert set(tmp_path.iterdir()) == set(others)
    files.remove_parts(tmp_path / "none")


_HOLDS = """
import pathlib, sys
from upscaled import files
folder, _ = files.hold_new_folder(pathlib.Path(sys.argv[1]))
(folder / "work").touch()
print(folder.name, flush=True)
sys.stdin.read()
"""


def test_a_folder_that_a_killed_process_left_is_removed_and_one_in_use_stays(
    tmp_path: Path,
) -> None:
    other = tmp_path / ".upscaled-0123456789abcdef"  # of an archive that is to be continued
    other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout
        folder = tmp_path / holder.stdout.readline().strip()
        files.remove_left_folders(tmp_path)
        assert (folder / "work").exists()
        holder.send_signal(signal.SIGKILL)
    assert (folder / "work").exists()
    files.remove_left_folders(tmp_path)
    assert list(tmp_path.iterdir()) == [other]
    files.remove_left_folders(tmp_path / "none")


def test_where_folders_cannot_be_locked_none_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # as NFS says about a folder

    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder, descriptor = files.hold_new_folder(tmp_path)
    os.close(descriptor)
    files.remove_left_folders(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_another_process_removes_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    removed: list[bool] = []

    def just_before(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(True)
            files.remove_left_folders(tmp_path)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", just_before)
    folder, descriptor = files.hold_new_folder(tmp_path)
    os.close(descriptor)
    assert list(tmp_path.iterdir()) == [folder]


async def test_a_digest_is_read_again_only_after_the_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counting(path: Path) -> str:
        read.append(path)
        return files.sha256_of(path)

    monkeypatch.setattr(digests, "sha256_of", counting)
    known, path = Digests(), tmp_path / "model.bin"
    path.write_bytes(b"one")
    assert await known.of(path) == await known.of(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"three")
    assert await known.of(path) == hashlib.sha256(b"three").hexdigest()
    assert len(read) == 2


async def test_digests_of_many_files_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_KEPT", 3)
    known = Digests()
    for number in range(10):
        path = tmp_path / str(number)
        path.write_text(str(number))
        await known.of(path)
    assert len(known._known) == 3


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_waits_for_the_thread_that_makes_its_file(
    tmp_path: Path, fails: bool
) -> None:
    path, begun, go_on = tmp_path / "file", threading.Event(), threading.Event()

    def make(text: str) -> None:
        begun.set()
        go_on.wait(30)
        path.write_text(text)
        if fails:
            raise OSError("the disk is full")

    async def caller() -> None:
        try:
            await files.in_thread(make, "x")
        finally:
            path.unlink()

    task = asyncio.create_task(caller())
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(2):
        task.cancel()
        await settled()
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not path.exists()


async def test_a_thread_returns_and_raises_as_elsewhere(tmp_path: Path) -> None:
    assert await files.in_thread("{}{b}".format, 1, b=2) == "12"
    with pytest.raises(FileNotFoundError):
        await files.in_thread((tmp_path / "none").unlink)


async def test_what_a_thread_acquires_for_a_cancelled_caller_is_released(tmp_path: Path) -> None:
    path, begun, go_on = tmp_path / "file", threading.Event(), threading.Event()
    opened = []

    def acquire() -> BinaryIO:
        begun.set()
        go_on.wait(30)
        opened.append(path.open("wb"))
        return opened[0]

    task = asyncio.create_task(files.acquired_in_thread(acquire, lambda file: file.close()))
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await settled()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [file.closed for file in opened] == [True]
    kept = await files.acquired_in_thread(lambda: path.open("rb"), lambda file: file.close())
    with kept:
        assert kept.read() == b""
    with pytest.raises(FileNotFoundError):
        await files.acquired_in_thread((tmp_path / "none").open, lambda file: file.close())


async def test_a_folder_for_a_block_is_gone_afterwards_also_if_the_block_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with files.new_folder("work-", tmp_path) as folder:
        (folder / "sub").mkdir()
        assert list(tmp_path.iterdir()) == [folder]
        assert folder.name.startswith("work-")
    assert not any(tmp_path.iterdir())

    begun, go_on, make = threading.Event(), threading.Event(), tempfile.mkdtemp

    def slow(**options: Any) -> str:
        begun.set()
        go_on.wait(30)
        return str(make(**options))

    async def caller() -> None:
        async with files.new_folder("work-", tmp_path):
            raise AssertionError

    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    task = asyncio.create_task(caller())
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(tmp_path.iterdir())


def test_a_part_of_a_file_gives_its_room_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.can_free(path)
    assert path.read_bytes() == b""
    content = os.urandom(1 << 20)
    path.write_bytes(content)
    files.sync(path)
    assert files.can_free(path)
    files.free(path, 1 << 18, 1 << 19)
    assert path.read_bytes() == content[: 1 << 18] + bytes(1 << 18) + content[1 << 19 :]
    assert path.stat().st_blocks * 512 <= (1 << 20) - (1 << 18) + 8192
    with pytest.raises(OSError, match="Invalid argument"):
        files.free(path, 5, 5)


def test_a_file_system_that_keeps_all_room_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(files, "free", refused)
    assert not files.can_free(tmp_path / "file")
