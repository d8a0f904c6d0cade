"""`WorkerPool`: the imaging processes, shared fairly, and what their ends and errors mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from upscaled import serial
from upscaled.errors import (
    BadRequestError,
    EngineError,
    NoMemoryError,
    NoSpaceError,
    NotAPictureError,
    ShortageError,
    UnusablePictureError,
    UpscaledError,
    WorkerFailedError,
)
from upscaled.imaging import protocol, replies
from upscaled.imaging.fair_places import FairPlaces, PlaceKind
from upscaled.imaging.protocol import Request
from upscaled.imaging.sandbox.sandbox import Confinement
from upscaled.imaging.verify.thresholds import UnlikeError
from upscaled.workers import deaths
from upscaled.workers.client import WorkerClient
from upscaled.workers.environment import plain_env
from upscaled.workers.errors import WorkerError, WorkerRefusedError, WorkerShortageError

log = logging.getLogger(__name__)

_WALL_PER_CPU = 10
"""On a busy machine, a request may take this many times its processor time."""
_MAX_MESSAGE = 1000
"""Longest error message accepted from a process, in characters."""
_UNCONFINED = "unconfined"

_LOST: dict[str, Callable[[str], UpscaledError]] = {
    "killed": NoMemoryError,
    "crashed": UnusablePictureError,
    "died": lambda message: EngineError(message, retryable=False),
}
"""What it means if a request's process ends that way each time."""

_ERRORS: dict[str, type[UpscaledError]] = {
    "bad_request": BadRequestError,
    "not_a_picture": NotAPictureError,
    "unusable": UnusablePictureError,
    "unlike": UnlikeError,
    "engine": EngineError,
    "no_memory": NoMemoryError,
    "no_space": NoSpaceError,
    "shortage": ShortageError,
}

_Reply = TypeVar("_Reply", bound=protocol.Reply)


class WorkerPool:
    """A number of resident, confined processes. Each is started when it is first needed.

    Their requests share the processes fairly: see `FairPlaces`.

    Args:
        size: how many processes, at least 2.
        settings: what they are started with, see `upscaled.imaging.worker`.
        cpu_seconds: processor time for the first start of one.
    """

    def __init__(self, size: int, settings: Mapping[str, Any], cpu_seconds: int) -> None:
        self._cpu_seconds = cpu_seconds
        # Thread pools that nobody needs would take the bounded address space.
        env = plain_env(OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="2")
        self._workers = [
            WorkerClient(
                "upscaled.imaging.worker",
                name="imaging",
                arguments=[serial.encode(settings).decode()],
                env=env,
            )
            for _ in range(size)
        ]
        self._places = FairPlaces(size)
        self._idle = list(self._workers)
        self._required: tuple[str, ...] | None = None
        self._first = asyncio.Lock()

    async def warm(self) -> Confinement:
        """Start one process so that the first picture need not wait; return its confinement.

        From then on, no request runs with weaker confinement than this process had.

        Raises:
            EngineError: no such process can be started, or it can be confined less than before.
        """
        async with self._first:
            return await self._ping()

    async def _ping(self) -> Confinement:
        required = self._required or ()
        reply = await self._repeated(
            protocol.PingRequest(required=required, cpu_seconds=self._cpu_seconds),
            protocol.PingReply,
            PlaceKind.LOOK,
            "",
        )
        if self._required is None:
            self._required = reply.active
        return Confinement(reply.active, reply.lacking)

    async def request(
        self, request: Request, reply_type: type[_Reply], kind: PlaceKind, caller: str = ""
    ) -> _Reply:
        """Send ``request`` to a free process that is confined like the first one.

        Raises:
            EngineError: no process could do it, or its reply is not a ``reply_type``.
            UpscaledError: the process refused.
        """
        async with self._first:
            if self._required is None:
                await self._ping()
        request = replace(request, required=self._required)
        try:
            return await self._repeated(request, reply_type, kind, caller)
        except _UnconfinedError:
            return await self._repeated(request, reply_type, kind, caller)

    async def close(self) -> None:
        """End every process after its current request."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    @asynccontextmanager
    async def hold(self, kind: PlaceKind, caller: str) -> AsyncIterator[WorkerClient]:
        """Wait for a process and hold it during the block."""
        async with self._places.hold(kind, caller):
            # The worker used last is taken first: its memory is warm, the others need not start.
            worker = self._idle.pop()
            try:
                yield worker
            finally:
                self._idle.append(worker)

    async def _repeated(
        self, request: Request, reply_type: type[_Reply], kind: PlaceKind, caller: str
    ) -> _Reply:
        """Put a request again if its process is killed or crashes, `deaths.TRIES` times in all."""
        first_look = isinstance(request, protocol.ProbesRequest) or (
            isinstance(request, protocol.ProbeRequest) and request.workdir is not None
        )
        tries = 1 if first_look else deaths.TRIES  # a plain probe follows a first look
        for left in reversed(range(tries)):
            try:
                return await self._ask(request, reply_type, kind, caller)
            except _LostError as lost:
                if not left:
                    raise lost.meaning from lost
                log.warning(
                    "imaging process lost; its request is repeated",
                    extra={"reason": lost.meaning.message},
                )
            await asyncio.sleep(deaths.PAUSE_SECONDS)
        raise AssertionError("TRIES is positive")

    async def _ask(
        self, request: Request, reply_type: type[_Reply], kind: PlaceKind, caller: str = ""
    ) -> _Reply:
        wall_seconds = request.cpu_seconds * _WALL_PER_CPU
        async with self.hold(kind, caller) as worker:
            try:
                reply = await worker.request(serial.plain(request), timeout=wall_seconds)
                return serial.convert(reply, reply_type)
            except WorkerRefusedError as error:
                if error.kind == _UNCONFINED:
                    await worker.close()  # the next one starts afresh
                    raise _UnconfinedError(_sentence(error.message)) from error
                if error.kind in _LOST:
                    raise _LostError(_LOST[error.kind](_sentence(error.message))) from error
                raise _ERRORS.get(error.kind, EngineError)(_sentence(error.message)) from error
            except msgspec.ValidationError as error:
                raise replies.WrongReplyError(_sentence(str(error))) from error
            except TimeoutError as error:
                raise EngineError(
                    f"The imaging process gave no answer within {wall_seconds} s."
                ) from error
            except WorkerShortageError as error:
                raise ShortageError(f"While a picture was being handled, {error}.") from error
            except WorkerError as error:
                sentence = f"While a picture was being handled, {error}."
                raise _LostError(WorkerFailedError(sentence, retryable=False)) from error


class _LostError(UpscaledError):
    """A process ended in the middle of a request; ``meaning`` is the error if it always does."""

    def __init__(self, meaning: UpscaledError) -> None:
        super().__init__(meaning.message)
        self.meaning = meaning


class _UnconfinedError(EngineError):
    """A process could not be confined like the first one, and did no work."""


def _sentence(text: str) -> str:
    """Return a process's message without control characters, shortened."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_MESSAGE])
