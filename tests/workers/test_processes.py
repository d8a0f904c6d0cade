"""A child process is gone, with all of its group, when we say so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from testkit.child_processes import is_running, wait_for_exit
from testkit.paths import ROOT
from testkit.unkillable import survive_sigkill
from upscaled.workers import processes
from upscaled.workers.environment import plain_env
from upscaled.workers.processes import StuckError

ENV = plain_env()

SLEEPER = "import signal; signal.pause()"
WITH_GRANDCHILD = f"""
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=SESSION)
os.write(1, f"{{child.pid}}\\n".encode())
END
"""


def python(code: str) -> Sequence[str]:
    return [sys.executable, "-c", code]


async def test_a_child_runs_and_its_status_is_known() -> None:
    async with processes.running(python("print('hello'); exit(7)"), env=ENV, stdout=True) as child:
        assert await child.stdout.read() == b"hello\n"
        assert await child.wait() == 7
        assert child.returncode == 7
        assert os.getpgrp() != child.pid


async def test_leaving_the_block_kills_a_child_that_ignores_sigterm() -> None:
    code = (
        "import signal, os; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "os.write(1, b'ready\\n'); signal.pause()"
    )
    async with processes.running(python(code), env=ENV, stdout=True) as child:
        await child.stdout.readline()
        os.kill(child.pid, signal.SIGTERM)
    assert child.returncode == -signal.SIGKILL
    assert not psutil.pid_exists(child.pid)


async def test_a_cancelled_block_still_ends_its_child_before_it_is_left() -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def block() -> None:
        async with processes.running(python(SLEEPER), env=ENV) as child:
            started.set_result(child.pid)
            await child.wait()

    task = asyncio.create_task(block())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("turns", range(6))
async def test_a_start_that_is_cancelled_twice_leaves_no_child(turns: int) -> None:
    others = set(psutil.Process().children(recursive=True))  # of servers that tests share
    starting = asyncio.create_task(processes.start(python(SLEEPER), env=ENV, stdin=True))
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    for _ in range(2):
        await asyncio.sleep(0)
        starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert set(psutil.Process().children(recursive=True)) <= others


async def test_a_cancellation_during_kill_waits_until_the_child_is_gone() -> None:
    child = await processes.start(python(SLEEPER), env=ENV)
    killing = asyncio.create_task(child.kill())
    await asyncio.sleep(0)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert not psutil.pid_exists(child.pid)


async def test_grandchildren_are_killed_with_the_child() -> None:
    code = WITH_GRANDCHILD.replace("SESSION", "False").replace("END", "signal.pause()")
    async with processes.running(python(code), env=ENV, stdout=True) as child:
        grandchild = int(await child.stdout.readline())
        assert is_running(grandchild)
    await wait_for_exit(grandchild)


async def test_grandchildren_left_behind_are_killed_when_the_child_ends_by_itself() -> None:
    code = WITH_GRANDCHILD.replace("SESSION", "False").replace("END", "")
    async with processes.running(python(code), env=ENV, stdout=True) as child:
        grandchild = int(await child.stdout.readline())
        assert await child.wait() == 0
        # Its pipes close with the grandchild, so reading them to the end is safe.
        async with asyncio.timeout(10):
            await child.stderr.read()
        await wait_for_exit(grandchild)


async def test_a_grandchild_that_fled_the_group_holds_nobody_up() -> None:
    code = WITH_GRANDCHILD.replace("SESSION", "True").replace("END", "")
    async with asyncio.timeout(20):
        async with processes.running(python(code), env=ENV, stdout=True) as child:
            fled = int(await child.stdout.readline())
            assert await child.wait() == 0
        assert is_running(fled)
        os.kill(fled, signal.SIGKILL)
        await wait_for_exit(fled)


async def test_kill_may_be_called_twice_and_on_an_ended_child() -> None:
    child = await processes.start(python("pass"), env=ENV)
    assert await child.wait() == 0
    await child.kill()
    await child.kill()
    assert child.returncode == 0


async def test_unread_output_and_unsent_input_keep_nothing_open() -> None:
    others = set(psutil.Process().children(recursive=True))  # of servers that tests share

    async def once() -> None:
        code = "import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"
        async with processes.running(python(code), env=ENV, stdin=True, stdout=True) as child:
            child.stdin.write(b"z" * 4_000_000)
            await child.stdout.readexactly(100_000)

    await once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await once()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert set(psutil.Process().children(recursive=True)) <= others


async def test_a_child_inherits_no_descriptor_but_its_own_three(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        code = "import os; os.execvp('ls', ['ls', '-l', '/proc/self/fd'])"
        async with processes.running(python(code), env=ENV, stdout=True) as child:
            listing = (await child.stdout.read()).decode()
    assert "secret" not in listing
    assert listing.count("pipe:") == 2
    assert "/dev/null" in listing


async def test_a_child_dies_with_a_parent_that_is_sigkilled() -> None:
    code = f"""
import asyncio, sys
from upscaled.workers import processes
from upscaled.workers.environment import plain_env
async def main():
    child = await processes.start([sys.executable, "-c", {SLEEPER!r}], env=plain_env())
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    async with processes.running(python(code), env=ENV, cwd=ROOT, stdout=True) as parent:
        orphan = int(await parent.stdout.readline())
        assert is_running(orphan)
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        await wait_for_exit(orphan)


async def test_a_program_that_is_not_there_says_so() -> None:
    async with processes.running(["/opt/no/such/program"], env=ENV) as child:
        words = await child.stderr.read()
        assert await child.wait() == 127
    assert words == b"/opt/no/such/program can't be run: No such file or directory\n"


async def test_the_environment_of_children_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALED_SERVER_AUTH_TOKEN", "secret")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/driver.json")
    env = plain_env(EXTRA="1")
    assert "secret" not in env.values()
    assert env["LC_ALL"] == "C.UTF-8"
    assert env["VK_ICD_FILENAMES"] == "/driver.json"
    assert env["EXTRA"] == "1"


async def test_a_child_that_survives_sigkill_is_given_up_and_reaped_whenever_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    really_kill = survive_sigkill(monkeypatch)
    ended = asyncio.Event()
    async with asyncio.timeout(10), processes.running(python(SLEEPER), env=ENV) as child:
        pass
    assert child.is_stuck
    assert f"process {child.pid} does not end although it was killed" in caplog.text
    with pytest.raises(StuckError):
        await child.wait()
    assert not await child.kill(), "and nobody waits for it a second time"
    child.when_gone(ended.set)
    really_kill(child.pid)
    async with asyncio.timeout(10):
        await ended.wait()
    assert child.is_gone
    assert not psutil.pid_exists(child.pid)


async def test_a_child_that_survives_sigkill_delays_a_cancellation_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really_kill = survive_sigkill(monkeypatch)
    child = await processes.start(python(SLEEPER), env=ENV)
    before = len(list(Path("/proc/self/fd").iterdir()))
    killing = asyncio.create_task(child.kill(), name="killing")
    await asyncio.sleep(0)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await killing
    assert child.is_stuck
    assert len(list(Path("/proc/self/fd").iterdir())) < before, "its pipes are closed"
    gone = asyncio.Event()
    child.when_gone(gone.set)
    really_kill(child.pid)
    async with asyncio.timeout(10):
        await gone.wait()
