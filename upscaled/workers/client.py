"""A resident worker: a child process that answers requests, one JSON line each, over pipes.

The parent writes ``{"number": 7, "request": …}``. The worker answers with any number of
``{"number": 7, "event": …}`` lines and then one with ``"reply"`` or ``"error"``. It is started by
the first request and stays; it is killed, and started afresh by the next request, when a request
is cancelled, runs out of time, or breaks it.

Several requests may be under way at once, where it was made for that. What ends one of them ends
the process for all. The others are put to its successor, each alone: nobody but itself can end
it then, and where the process had died of one of them, it shows of which.

This is the parent's half; `answering` is the worker's.
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

from upscaled.workers import processes
from upscaled.workers.processes import Child
from upscaled.workers.server import Message

log = logging.getLogger(__name__)

_STDERR_TAIL = 4096
_LAST_WORDS_SECONDS = 1.0


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


class _UnheardError(Exception):
    """The process was dead before the request could be put to it."""


class _EndedError(Exception):
    """The process was ended for the sake of another request."""


class _SuspectedError(Exception):
    """The process died of this request or of another that was under way."""


class WorkerClient:
    """The parent's half of one worker process.

    Args:
        module: what ``python -m`` runs; its ``main`` ends in `serve`.
        name: what it is called in messages and logs.
        env: its environment; None: `processes.plain_env`.
        at_once: how many requests may be under way; more wait for one another.
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
    ) -> None:
        self.name = name
        self._program = [sys.executable, "-m", module, str(os.getpid()), *arguments]
        self._env = env
        self._cwd = cwd
        self._life: _Life | None = None
        self._change = asyncio.Lock()
        self._at_once = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._all_turns = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running worker, None while there is none."""
        return self._life.pid if self._life else None

    async def request(
        self,
        message: Message,
        *,
        on_event: Callable[[Message], None] | None = None,
        on_put_back: Callable[[], None] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Put ``message`` to the worker, pass every event on, return the reply.

        When this is cancelled or runs out of time, the worker is dead before the exception
        goes on.

        Args:
            message: the request.
            on_event: is called with each event; from the first on again, where the request had to
                be put again.
            on_put_back: is called when it has to be put again, before it waits for that.
            timeout: seconds that one try may take.

        Raises:
            WorkerRefusedError: the worker said no; it lives on.
            WorkerDiedError: it ended without an answer, or could not be started.
            TimeoutError: one try had no answer within ``timeout`` seconds.
        """
        alone = False
        while True:
            async with self._turn(alone=alone):
                life: _Life | None = None
                try:
                    async with asyncio.timeout(timeout):
                        life = await self._living()
                        return await life.ask(message, on_event)
                except WorkerRefusedError:
                    raise
                except (_UnheardError, _EndedError, _SuspectedError) as error:
                    if on_put_back is not None:
                        on_put_back()
                    await self._end(life)
                    alone = alone or not isinstance(error, _UnheardError)
                except BaseException:
                    await self._end(life)
                    raise

    @contextlib.asynccontextmanager
    async def _turn(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for a place among the requests under way; ``alone``: until there is no other."""
        async with contextlib.AsyncExitStack() as places:
            if alone:  # one at a time gathers places, or two would wait for each other's
                await places.enter_async_context(self._all_turns)
            for _ in range(self._at_once if alone else 1):
                await places.enter_async_context(self._turns)
            yield

    async def _living(self) -> _Life:
        """Return the running process, which may have to be started.

        Raises:
            WorkerDiedError: it can't be.
        """
        async with self._change:
            if self._life is not None and self._life.over:
                await self._life.end()
                self._life = None
            if self._life is None:
                env = processes.plain_env() if self._env is None else self._env
                try:
                    child = await processes.start(
                        self._program, env=env, cwd=self._cwd, stdin=True, stdout=True
                    )
                except OSError as error:  # too many processes or descriptors, too little memory
                    raise WorkerDiedError(self.name, None, error.strerror or str(error)) from error
                self._life = _Life(self.name, child)
            return self._life

    async def _end(self, life: _Life | None) -> None:
        """See to it that ``life`` is over; its successor, if there is one already, goes on.

        A cancellation is kept back until then.
        """
        ending = asyncio.create_task(self._bury(life), name=f"end of {self.name}")
        cancelled = False
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:
                cancelled = True
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    async def _bury(self, life: _Life | None) -> None:
        async with self._change:
            if life is not None:
                await life.end()
            if self._life is life:
                self._life = None

    async def close(self) -> None:
        """End the worker, after the requests under way if there are some."""
        async with self._turn(alone=True):
            await self._end(self._life)


@dataclass(frozen=True)
class _Question:
    """A request that was put and is not answered yet."""

    answer: asyncio.Future[dict[str, Any]]
    on_event: Callable[[Message], None] | None

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Life:
    """One process of a worker, from its start to its end."""

    def __init__(self, name: str, child: Child) -> None:
        self._name = name
        self._child = child
        self._stderr = bytearray()
        self._numbers = itertools.count()
        self._questions: dict[int, _Question] = {}
        self._drain = asyncio.create_task(self._drain_stderr(), name=f"{name}-stderr")
        self._listener = asyncio.create_task(self._listen(), name=f"{name}-answers")

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def over(self) -> bool:
        """Whether no answer can come any more."""
        return self._child.returncode is not None or self._listener.done()

    async def ask(
        self, message: Message, on_event: Callable[[Message], None] | None
    ) -> dict[str, Any]:
        """Put a request and return the reply.

        Raises:
            WorkerRefusedError: as `WorkerClient.request`.
            WorkerDiedError: so.
            _UnheardError, _EndedError, _SuspectedError: it is to be put again.
            Exception: what ``on_event`` raised, or the answer is none.
        """
        number = next(self._numbers)
        question = _Question(asyncio.get_running_loop().create_future(), on_event)
        self._questions[number] = question
        content = {"number": number, "request": message}
        try:
            if not await self._sent(json.dumps(content, separators=(",", ":")).encode() + b"\n"):
                if number == 0:  # it never lived
                    raise await self._died()
                raise _UnheardError
            return await question.answer
        finally:
            del self._questions[number]
            if question.answer.done() and not question.answer.cancelled():
                question.answer.exception()  # nobody may be left to hear of it

    async def _sent(self, line: bytes) -> bool:
        """Send a line; False when the process is dead already."""
        # A pipe whose other end is gone drops what is written and says so only a little later.
        if self._child.stdin.is_closing():
            return False
        try:
            self._child.stdin.write(line)
            await self._child.stdin.drain()
        except ConnectionError:
            return False
        return not self._child.stdin.is_closing()

    async def _listen(self) -> None:
        """Hand answers to those who wait for them, until there are no more."""
        error: Exception
        try:
            while (line := await self._child.stdout.readline()).endswith(b"\n"):
                self._hand_over(json.loads(line))
            error = await self._died()
        except Exception as broken:  # no line of ours, or one without end
            error = broken
        questions = list(self._questions.values())
        for question in questions:
            question.fail(error if len(questions) == 1 else _SuspectedError())

    def _hand_over(self, answer: Message) -> None:
        question = self._questions.get(answer["number"])
        if question is None or question.answer.done():
            return  # given up, and about to end this process
        if "event" in answer:
            if question.on_event is not None:
                try:
                    question.on_event(answer["event"])
                except Exception as error:  # the asker's own mistake
                    question.fail(error)
        elif "error" in answer:
            told = answer["error"]
            question.fail(WorkerRefusedError(told["kind"], told["message"]))
        else:
            question.answer.set_result(answer["reply"])

    async def _drain_stderr(self) -> None:
        while chunk := await self._child.stderr.read(_STDERR_TAIL):
            self._stderr += chunk
            del self._stderr[:-_STDERR_TAIL]

    async def _died(self) -> WorkerDiedError:
        # Its last words first: killing closes the pipe.
        await asyncio.wait([self._drain], timeout=_LAST_WORDS_SECONDS)
        await self._child.kill()
        words = self._stderr.decode("utf-8", "replace")
        return WorkerDiedError(self._name, self._child.returncode, words)

    async def end(self) -> None:
        """Kill the process, if it still runs; those who wait for an answer get `_EndedError`."""
        for question in self._questions.values():
            question.fail(_EndedError())
        try:
            await self._child.kill()
        finally:
            tasks = [self._drain, self._listener]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
