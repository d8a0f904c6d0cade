"""A resident worker: a child process that answers requests, one JSON line each, over pipes.

The parent writes one request a line. The worker answers with any number of
``{"event": …}`` lines and then one ``{"reply": …}`` or ``{"error": …}`` line. It is started by
the first request and stays; it is killed, and started afresh by the next request, when a request
is cancelled, runs out of time, or breaks it.

`ResidentWorker` is the parent's half, `serve` the worker's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from upscaled import processes
from upscaled.launcher import die_with_parent
from upscaled.processes import Child

log = logging.getLogger(__name__)

_STDERR_TAIL = 4096
_LAST_WORDS_SECONDS = 1.0

Message = Mapping[str, Any]


class WorkerDiedError(Exception):
    """The worker ended in the middle of a request; carries the last line of its stderr.

    ``returncode`` None: it did not even start; ``stderr`` is what the system says of that.
    """

    def __init__(self, name: str, returncode: int | None, stderr: str) -> None:
        self.returncode = returncode
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        self.last_words = lines[-1] if lines else ""
        if returncode is None:
            how = "can't be started"
        elif returncode < 0:
            how = f"ended with signal {-returncode}"
        else:
            how = f"ended with status {returncode}"
        said = f": {self.last_words}" if self.last_words else ""
        super().__init__(f"the {name} process {how}{said}")


class WorkerRefusedError(Exception):
    """The worker answered with an error: ``kind`` a name the caller knows, and a sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class ResidentWorker:
    """The parent's half of one worker process. Requests to it wait for one another.

    Args:
        module: what ``python -m`` runs; its ``main`` ends in `serve`.
        name: what it is called in messages and logs.
        env: its environment; None: `processes.plain_env`.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self._program = [sys.executable, "-m", module, str(os.getpid()), *arguments]
        self._env = env
        self._cwd = cwd
        self._child: Child | None = None
        self._stderr = bytearray()
        self._drain: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running worker, None while there is none."""
        return self._child.pid if self._child else None

    async def request(
        self,
        message: Message,
        *,
        on_event: Callable[[Message], None] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send ``message``, pass every event on, return the reply.

        When this is cancelled or runs out of time, the worker is dead before the exception
        goes on.

        Raises:
            WorkerRefusedError: the worker said no; it lives on.
            WorkerDiedError: it ended without an answer, or could not be started.
            TimeoutError: no answer within ``timeout`` seconds.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(timeout):
                    return await self._exchange(message, on_event)
            except WorkerRefusedError:
                raise
            except BaseException:
                await self._end()
                raise

    async def _exchange(
        self, message: Message, on_event: Callable[[Message], None] | None
    ) -> dict[str, Any]:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        child = await self._running()
        if not await _sent(child, line):
            # It died since its last answer: nobody has been asked yet.
            await self._end()
            child = await self._running()
            await _sent(child, line)
        while True:
            answer = await child.stdout.readline()
            if not answer.endswith(b"\n"):
                raise await self._died(child)
            parsed: dict[str, Any] = json.loads(answer)
            if "event" in parsed:
                if on_event is not None:
                    on_event(parsed["event"])
            elif "error" in parsed:
                raise WorkerRefusedError(parsed["error"]["kind"], parsed["error"]["message"])
            else:
                reply: dict[str, Any] = parsed["reply"]
                return reply

    async def _running(self) -> Child:
        if self._child is not None and self._child.returncode is not None:
            await self._end()
        if self._child is None:
            env = processes.plain_env() if self._env is None else self._env
            self._stderr.clear()
            try:
                self._child = await processes.start(
                    self._program, env=env, cwd=self._cwd, stdin=True, stdout=True
                )
            except OSError as error:  # too many processes or descriptors, too little memory
                raise WorkerDiedError(self.name, None, error.strerror or str(error)) from error
            self._drain = asyncio.create_task(
                self._drain_stderr(self._child), name=f"{self.name}-stderr"
            )
        return self._child

    async def _drain_stderr(self, child: Child) -> None:
        while chunk := await child.stderr.read(_STDERR_TAIL):
            self._stderr += chunk
            del self._stderr[:-_STDERR_TAIL]

    async def _died(self, child: Child) -> WorkerDiedError:
        if self._drain is not None:  # its last words first: killing closes the pipe
            await asyncio.wait([self._drain], timeout=_LAST_WORDS_SECONDS)
        await child.kill()
        return WorkerDiedError(self.name, child.returncode, self._stderr.decode("utf-8", "replace"))

    async def _end(self) -> None:
        child, self._child = self._child, None
        drain, self._drain = self._drain, None
        try:
            if child is not None:
                await child.kill()
        finally:
            if drain is not None:
                drain.cancel()
                await asyncio.wait([drain])

    async def close(self) -> None:
        """End the worker, after the request in progress if there is one."""
        async with self._turn:
            await self._end()


async def _sent(child: Child, line: bytes) -> bool:
    """Send a line to a worker; False when it is dead already."""
    # A pipe whose other end is gone drops what is written and says so only a little later.
    if child.stdin.is_closing():
        return False
    try:
        child.stdin.write(line)
        await child.stdin.drain()
    except ConnectionError:
        return False
    return not child.stdin.is_closing()


Handler = Callable[[Message, Callable[[Message], None]], Message]
"""The worker's side of a request: gets the message and an event sender, returns the reply."""


class RefusedError(Exception):
    """Raised by a worker's handler: answered as an error of this kind, the worker lives on."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def serve(handler: Handler, *, threaded: bool = True) -> None:
    """Answer requests from standard input until it closes; the worker's main loop.

    ``sys.argv[1]`` is the parent's process id, with which this process dies. Whatever libraries
    print to standard output goes to standard error instead.

    Args:
        handler: does the work.
        threaded: the end of standard input ends the process at once, even in the middle of a
            computation. Not so, for a handler that forks: then the process has one thread.
    """
    die_with_parent(int(sys.argv[1]))
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def send(kind: str, content: Message) -> None:
        channel.write(json.dumps({kind: content}, separators=(",", ":")).encode() + b"\n")

    for line in _listened() if threaded else sys.stdin.buffer:
        message = json.loads(line)
        try:
            reply = handler(message, lambda event: send("event", event))
        except RefusedError as error:
            send("error", {"kind": error.kind, "message": error.message})
        except BaseException:
            # An orderly exit would stumble over the thread that waits for standard input, and
            # bury the traceback under a complaint about that.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        else:
            send("reply", reply)


def _listened() -> Iterator[bytes]:
    """Yield lines of standard input as a thread reads them; its end ends the process."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, name="requests", daemon=True).start()
    while True:
        yield lines.get()
