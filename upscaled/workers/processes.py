"""Child processes: each leads its own process group and is reaped before its owner continues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from upscaled.workers import launcher

log = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""How long a killed child may take to end. Freeing tens of gigabytes takes 2 s; a child that waits
in the kernel for a driver or a disk (state D) may take for ever."""
_READ_LIMIT = 1 << 20
_CLOSE_SECONDS = 1.0
"""How long pipes may take to close: unsent input that a runaway process never reads keeps one."""


class StuckError(Exception):
    """A child does not end although it was killed; it waits in the kernel."""

    def __init__(self, pid: int) -> None:
        super().__init__(
            f"process {pid} does not end although it was killed; a driver or a disk is probably "
            "hanging"
        )
        self.pid = pid


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """The streams of a child, and events that tell when it and its pipes are gone.

    `asyncio.subprocess.Process.wait` also waits for the pipes in some versions of Python. A process
    that left the group with one of them would then block it for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_READ_LIMIT, loop=loop)
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()
        self.when_exited: list[Callable[[], None]] = []
        self.over = asyncio.Event()
        self._group = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101
        self._group = transport.get_pid() or 0

    def process_exited(self) -> None:
        # At once, before the group's number can be given to other processes.
        self.kill_group()
        super().process_exited()
        self.exited.set()
        self.over.set()
        for callback in self.when_exited:
            callback()
        self.when_exited.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()

    def kill_group(self) -> None:
        if self._group and not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)


class Child:
    """A running child process, the leader of a process group.

    When it ends by itself, the rest of its group is killed too.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        transport: asyncio.SubprocessTransport,
        protocol: _Protocol,
    ) -> None:
        self._process = process
        self._transport = transport
        self._protocol = protocol
        self._given_up = False

    @property
    def pid(self) -> int:
        """Process id, which is the process group's id too."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative signal number, or None while it runs."""
        return self._process.returncode

    @property
    def stdin(self) -> asyncio.StreamWriter:
        """Pipe to the child's standard input."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe by `start`
        return self._process.stdin

    @property
    def stdout(self) -> asyncio.StreamReader:
        """Pipe from the child's standard output."""
        assert self._process.stdout is not None  # noqa: S101 - opened as a pipe by `start`
        return self._process.stdout

    @property
    def stderr(self) -> asyncio.StreamReader:
        """Pipe from the child's standard error."""
        assert self._process.stderr is not None  # noqa: S101 - opened as a pipe by `start`
        return self._process.stderr

    @property
    def is_gone(self) -> bool:
        """Whether it has ended and was reaped."""
        return self._protocol.exited.is_set()

    @property
    def is_stuck(self) -> bool:
        """Whether `kill` has given it up and it has still not ended."""
        return self._given_up and not self.is_gone

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the child has ended; at once if it has already."""
        if self.is_gone:
            callback()
        else:
            self._protocol.when_exited.append(callback)

    async def wait(self) -> int:
        """Wait until the child has ended; return its exit status.

        Raises:
            StuckError: `kill` has given it up.
        """
        await self._protocol.over.wait()
        if self.returncode is None:
            raise StuckError(self.pid)
        return self.returncode

    async def kill(self) -> bool:
        """SIGKILL the process group; return when it is reaped and its pipes are closed.

        A child that waits in the kernel, for a driver or a disk, ignores SIGKILL. After
        `KILL_SECONDS` it is given up: this returns, its pipes are closed, and it is reaped in the
        background whenever it ends. A cancellation is delayed until then. Output that was not read
        yet is lost.

        Returns:
            Whether the child is gone.
        """
        self._protocol.kill_group()
        if self._given_up:
            return self.is_gone
        cancelled = not await _outlast_cancellation(self._protocol.exited, KILL_SECONDS)
        if self.is_gone:
            self._transport.close()
            cancelled |= not await _outlast_cancellation(self._protocol.closed, _CLOSE_SECONDS)
        else:
            self._give_up()
        if cancelled:
            raise asyncio.CancelledError
        return self.is_gone

    def _give_up(self) -> None:
        self._given_up = True
        self._protocol.over.set()
        for descriptor in range(3):  # the rest of the transport closes when the child ends
            if (pipe := self._transport.get_pipe_transport(descriptor)) is not None:
                pipe.close()
        log.error("%s", StuckError(self.pid))
        self.when_gone(lambda: log.info("process %d has ended after all", self.pid))


async def _outlast_cancellation(event: asyncio.Event, seconds: float) -> bool:
    """Wait for ``event``, up to ``seconds``; return False if a cancellation came meanwhile."""
    undisturbed = True
    deadline = asyncio.get_running_loop().time() + seconds
    while not event.is_set():
        try:
            async with asyncio.timeout_at(deadline):
                await event.wait()
        except asyncio.CancelledError:
            undisturbed = False
        except TimeoutError:
            break
    return undisturbed


async def start(
    program: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bool = False,
    stdout: bool = False,
) -> Child:
    """Start ``program`` with exactly ``env``; its standard error is always a pipe.

    The child dies with this process, even when this process is SIGKILLed. A cancellation is delayed
    until a child that was created meanwhile is killed.

    Raises:
        OSError: there is no such program, or no process could be created.
    """
    starting = asyncio.create_task(
        _start(program, env=env, cwd=cwd, stdin=stdin, stdout=stdout), name="start of a child"
    )
    cancelled = False
    while not starting.done():
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            cancelled = True
    if not cancelled:
        return starting.result()
    if starting.exception() is None:
        await starting.result().kill()
    raise asyncio.CancelledError


async def _start(
    program: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    stdin: bool,
    stdout: bool,
) -> Child:
    loop = asyncio.get_running_loop()
    # Like asyncio.create_subprocess_exec, but keeps the transport.
    transport, protocol = await loop.subprocess_exec(
        lambda: _Protocol(loop),
        sys.executable,
        "-I",
        "-S",
        launcher.__file__,
        str(os.getpid()),
        *(str(part) for part in program),
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if stdout else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    return Child(asyncio.subprocess.Process(transport, protocol, loop), transport, protocol)


@asynccontextmanager
async def running(
    program: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bool = False,
    stdout: bool = False,
) -> AsyncIterator[Child]:
    """Run ``program`` for the block and kill it at the end, as `Child.kill` says.

    Raises:
        OSError: see `start`.
    """
    child = await start(program, env=env, cwd=cwd, stdin=stdin, stdout=stdout)
    try:
        yield child
    finally:
        await child.kill()
