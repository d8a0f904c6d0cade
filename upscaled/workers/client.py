"""A worker process that stays and answers requests, one JSON line each, over pipes.

The client writes ``{"number": 7, "request": …}``. The worker answers with any number of
``{"number": 7, "event": …}`` lines, then one with ``"reply"`` or ``"error"``. The first request
starts the process. It is killed when a request is cancelled, runs out of time or breaks it, and the
next request starts a new one.

A client may be made for several requests at once. If the process ends because of one of them, the
others are retried one at a time. So a request that kills the process is identified and reported
alone, and no request is interrupted twice by others.

This module is the client's half; `server` is the worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled.errors import SHORTAGE
from upscaled.workers import processes
from upscaled.workers.environment import plain_env
from upscaled.workers.errors import (
    WorkerDiedError,
    WorkerError,
    WorkerRefusedError,
    WorkerShortageError,
    WorkerStuckError,
)
from upscaled.workers.processes import Child
from upscaled.workers.server import Message

log = logging.getLogger(__name__)

_STDERR_TAIL = 4096
_STDERR_SECONDS = 1.0
"""How long the end of a dead worker's standard error is waited for."""


class _NotSentError(Exception):
    """The process was dead before the request could be sent."""


class _KilledError(Exception):
    """The process was killed because of another request."""


class _SharedDeathError(Exception):
    """The process died while several requests were running; any of them may be the cause."""


class WorkerClient:
    """The client of one worker process.

    Args:
        module: what ``python -m`` runs; its ``main`` calls `serve`.
        name: used in messages and logs.
        arguments: of the module, after the process id of the parent.
        env: its environment; None: `plain_env`.
        cwd: its working directory; None: that of this process.
        at_once: how many requests may run at the same time; more wait.
        max_stuck: how many processes may survive SIGKILL before requests fail with
            `WorkerStuckError`. 1 for a worker that holds a device.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        at_once: int = 1,
        max_stuck: int = 3,
    ) -> None:
        self.name = name
        self._program = [sys.executable, "-m", module, str(os.getpid()), *arguments]
        self._env = env
        self._cwd = cwd
        self._process: _Process | None = None
        self._stuck: dict[int, Child] = {}
        self._max_stuck = max_stuck
        self._when_usable: list[Callable[[], None]] = []
        self._change = asyncio.Lock()
        self._at_once = at_once
        self._slots = asyncio.Semaphore(at_once)
        self._all_slots = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running worker, None while there is none."""
        return self._process.pid if self._process else None

    @property
    def stuck(self) -> WorkerStuckError | None:
        """Why no request can be answered now: earlier processes survive SIGKILL; else None."""
        if len(self._stuck) < self._max_stuck:
            return None
        return WorkerStuckError(self.name, list(self._stuck))

    async def request(
        self,
        message: Message,
        *,
        on_event: Callable[[Message], None] | None = None,
        on_retry: Callable[[], None] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send ``message`` to the worker, pass on its events and return the reply.

        When this is cancelled or times out, the worker is killed before the exception is raised.
        Only a process that survives SIGKILL outlives it (see `processes.Child.kill`).

        Args:
            message: the request.
            on_event: is called with each event; again from the first one after a retry.
            on_retry: is called before the request waits to be sent again.
            timeout: seconds for one try.

        Raises:
            WorkerRefusedError: the worker answered with an error; it keeps running.
            WorkerDiedError: it ended without an answer, or could not be started.
            WorkerShortageError: the system lacks descriptors, processes or memory to start it.
            WorkerStuckError: earlier processes of it survive SIGKILL.
            TimeoutError: one try had no answer within ``timeout`` seconds.
        """
        exclusive = False
        while True:
            async with self._slot(exclusive=exclusive):
                process: _Process | None = None
                try:
                    async with asyncio.timeout(timeout):
                        process = await self._running()
                        return await process.request(message, on_event)
                except WorkerRefusedError:
                    raise
                except (_NotSentError, _KilledError, _SharedDeathError) as error:
                    if on_retry is not None:
                        on_retry()
                    await self._end(process)
                    exclusive = exclusive or not isinstance(error, _NotSentError)
                except BaseException:
                    await self._end(process)
                    raise

    @contextlib.asynccontextmanager
    async def _slot(self, *, exclusive: bool) -> AsyncIterator[None]:
        """Wait for one of the ``at_once`` slots, or for all of them with ``exclusive``."""
        async with contextlib.AsyncExitStack() as slots:
            if exclusive:  # only one caller collects slots, or two would wait for each other
                await slots.enter_async_context(self._all_slots)
            for _ in range(self._at_once if exclusive else 1):
                await slots.enter_async_context(self._slots)
            yield

    async def _running(self) -> _Process:
        """Return the running process; start it if there is none.

        Raises:
            WorkerDiedError: it can't be started.
            WorkerStuckError: an earlier process must end first.
        """
        async with self._change:
            if self._process is not None and self._process.is_over:
                await self._kill(self._process)
                self._process = None
            if self._process is None:
                if self.stuck is not None:
                    raise self.stuck
                self._process = await self._start()
            return self._process

    async def _start(self) -> _Process:
        env = plain_env() if self._env is None else self._env
        try:
            child = await processes.start(
                self._program, env=env, cwd=self._cwd, stdin=True, stdout=True
            )
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in SHORTAGE:
                raise WorkerShortageError(self.name, reason) from error
            raise WorkerDiedError(self.name, None, reason) from error
        return _Process(self.name, child)

    async def _end(self, process: _Process | None) -> None:
        """Kill ``process``; a newer process, if there is one, keeps running.

        A cancellation is delayed until then.
        """
        ending = asyncio.create_task(self._end_now(process), name=f"end of {self.name}")
        cancelled = False
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:
                cancelled = True
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    async def _end_now(self, process: _Process | None) -> None:
        async with self._change:
            if process is not None:
                await self._kill(process)
            if self._process is process:
                self._process = None

    async def _kill(self, process: _Process) -> None:
        child = process.child
        if not await process.kill() and child.pid not in self._stuck:
            self._stuck[child.pid] = child
            child.when_gone(lambda: self._is_gone(child))

    def _is_gone(self, child: Child) -> None:
        del self._stuck[child.pid]
        if self.stuck is None:
            callbacks, self._when_usable = self._when_usable, []
            for callback in callbacks:
                callback()

    def when_usable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once `stuck` becomes None; not at all if it is None already."""
        if self.stuck is not None and callback not in self._when_usable:
            self._when_usable.append(callback)

    async def close(self) -> None:
        """End the worker, after the running requests."""
        async with self._slot(exclusive=True):
            await self._end(self._process)


@dataclass(frozen=True)
class _PendingRequest:
    """A request that was sent and is not answered yet."""

    answer: asyncio.Future[dict[str, Any]]
    on_event: Callable[[Message], None] | None

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Process:
    """One process of a worker, from start to end."""

    def __init__(self, name: str, child: Child) -> None:
        self._name = name
        self.child = child
        self._stderr = bytearray()
        self._numbers = itertools.count()
        self._pending: dict[int, _PendingRequest] = {}
        self._drain = asyncio.create_task(self._drain_stderr(), name=f"{name}-stderr")
        self._reader = asyncio.create_task(self._read_answers(), name=f"{name}-answers")

    @property
    def pid(self) -> int:
        """Process id."""
        return self.child.pid

    @property
    def is_over(self) -> bool:
        """Whether no further answer can come."""
        return self.child.returncode is not None or self._reader.done()

    async def request(
        self, message: Message, on_event: Callable[[Message], None] | None
    ) -> dict[str, Any]:
        """Send a request and return the reply.

        Raises:
            WorkerRefusedError: as `WorkerClient.request`.
            WorkerDiedError: as `WorkerClient.request`.
            _NotSentError, _KilledError, _SharedDeathError: it must be sent again.
            Exception: what ``on_event`` raised, or the answer is malformed.
        """
        number = next(self._numbers)
        pending = _PendingRequest(asyncio.get_running_loop().create_future(), on_event)
        self._pending[number] = pending
        content = {"number": number, "request": message}
        try:
            if not await self._send(json.dumps(content, separators=(",", ":")).encode() + b"\n"):
                if number == 0:  # it never answered anything
                    raise await self._death()
                raise _NotSentError
            return await pending.answer
        finally:
            del self._pending[number]
            if pending.answer.done() and not pending.answer.cancelled():
                pending.answer.exception()  # marks it as retrieved

    async def _send(self, line: bytes) -> bool:
        """Send a line; return False when the process is already dead."""
        # A pipe whose other end is closed drops data first and reports it only later.
        if self.child.stdin.is_closing():
            return False
        try:
            self.child.stdin.write(line)
            await self.child.stdin.drain()
        except ConnectionError:
            return False
        return not self.child.stdin.is_closing()

    async def _read_answers(self) -> None:
        """Hand answers to the pending requests until there are no more."""
        error: Exception
        try:
            while (line := await self.child.stdout.readline()).endswith(b"\n"):
                self._dispatch(json.loads(line))
            error = await self._death()
        except Exception as malformed:  # not one of our lines, or longer than the limit
            error = malformed
        pending = list(self._pending.values())
        for request in pending:
            request.fail(error if len(pending) == 1 else _SharedDeathError())

    def _dispatch(self, answer: Message) -> None:
        request = self._pending.get(answer["number"])
        if request is None or request.answer.done():
            return  # abandoned; its caller is about to kill this process
        if "event" in answer:
            if request.on_event is not None:
                try:
                    request.on_event(answer["event"])
                except Exception as error:  # the caller's own fault
                    request.fail(error)
        elif "error" in answer:
            refusal = answer["error"]
            request.fail(WorkerRefusedError(refusal["kind"], refusal["message"]))
        else:
            request.answer.set_result(answer["reply"])

    async def _drain_stderr(self) -> None:
        while chunk := await self.child.stderr.read(_STDERR_TAIL):
            self._stderr += chunk
            del self._stderr[:-_STDERR_TAIL]

    async def _death(self) -> WorkerError:
        """Return the error that says how the process ended."""
        # Read its last words first: killing closes the pipe.
        await asyncio.wait([self._drain], timeout=_STDERR_SECONDS)
        if not await self.child.kill():
            return WorkerStuckError(self._name, [self.pid])
        words = self._stderr.decode("utf-8", "replace")
        return WorkerDiedError(self._name, self.child.returncode, words)

    async def kill(self) -> bool:
        """Kill the process if it still runs; pending requests get `_KilledError`.

        Returns:
            False when it survives SIGKILL for now; see `Child.kill`.
        """
        for request in self._pending.values():
            request.fail(_KilledError())
        try:
            return await self.child.kill()
        finally:
            tasks = [self._drain, self._reader]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
