"""Child processes: each in its own process group, each certainly gone when we say so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from upscaled.workers import launcher

_READ_LIMIT = 1 << 20
_CLOSE_SECONDS = 1.0
"""How long pipes may take to close: unsent input that a runaway process never reads keeps one."""


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """The streams of a child, and the moments at which it and its pipes are gone.

    `asyncio.subprocess.Process.wait` also waits for the pipes in some versions of Python; a
    process that fled the group with one of them would then hold us up for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_READ_LIMIT, loop=loop)
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()
        self._group = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101
        self._group = transport.get_pid() or 0

    def process_exited(self) -> None:
        # At once, while the group's number cannot have been given to somebody else yet.
        self.kill_group()
        super().process_exited()
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()

    def kill_group(self) -> None:
        if self._group and not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)


class Child:
    """A running child process, leader of a process group of its own.

    When it ends by itself, what is left of its group is killed too.
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

    async def wait(self) -> int:
        """Wait until the child has ended by itself; return its exit status."""
        await self._protocol.exited.wait()
        assert self.returncode is not None  # noqa: S101 - that is what `exited` says
        return self.returncode

    async def kill(self) -> None:
        """SIGKILL the whole process group; return when it is reaped and its pipes are closed.

        A cancellation that arrives meanwhile is kept back until then. Output that was not read
        yet is lost.
        """
        self._protocol.kill_group()
        cancelled = False
        while not self._protocol.exited.is_set():
            try:
                await self._protocol.exited.wait()
            except asyncio.CancelledError:
                cancelled = True
        self._transport.close()
        deadline = asyncio.get_running_loop().time() + _CLOSE_SECONDS
        while not self._protocol.closed.is_set():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._protocol.closed.wait()
            except asyncio.CancelledError:
                cancelled = True
            except TimeoutError:
                break
        if cancelled:
            raise asyncio.CancelledError


async def start(
    program: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bool = False,
    stdout: bool = False,
) -> Child:
    """Start ``program`` with exactly ``env``; its standard error is always a pipe.

    The child dies with this process, even when this process is SIGKILLed.

    Raises:
        OSError: there is no such program, or no process could be made.
    """
    loop = asyncio.get_running_loop()
    # What asyncio.create_subprocess_exec does, but keeping hold of the transport.
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
    """Run ``program`` for the length of the block; no process of it outlives the block."""
    child = await start(program, env=env, cwd=cwd, stdin=stdin, stdout=stdout)
    try:
        yield child
    finally:
        await child.kill()


def plain_env(**extra: str) -> dict[str, str]:
    """Return the environment for children: what loaders and drivers need, a fixed locale.

    Nothing else is handed on, tokens in ``UPSCALED_*`` variables least of all.
    """
    names = (
        "PATH",
        "HOME",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "XDG_RUNTIME_DIR",
        "XDG_CACHE_HOME",
        "XDG_DATA_DIRS",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "MESA_VK_DEVICE_SELECT",
        "DRI_PRIME",
    )
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.startswith("VK_")}
    return env | {"LC_ALL": "C.UTF-8"} | extra
