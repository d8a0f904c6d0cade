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

from upscaled import launcher

_READ_LIMIT = 1 << 20


class Child:
    """A running child process, leader of a process group of its own."""

    def __init__(
        self, process: asyncio.subprocess.Process, transport: asyncio.SubprocessTransport
    ) -> None:
        self._process = process
        self._transport = transport

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
        return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL the whole process group and return only when the child is reaped.

        A cancellation that arrives meanwhile is kept back until then.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        reaping = asyncio.ensure_future(self._process.wait())
        cancelled = False
        while not reaping.done():
            try:
                await asyncio.shield(reaping)
            except asyncio.CancelledError:
                cancelled = True
        # Output that nobody read would keep the pipes open.
        self._transport.close()
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
        lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=_READ_LIMIT, loop=loop),
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
    return Child(asyncio.subprocess.Process(transport, protocol, loop), transport)


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
