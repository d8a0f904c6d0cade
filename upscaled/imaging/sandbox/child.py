"""Runs each request in a child process, forked from the resident process that has everything
loaded.

So a request is confined to its own job's files, and damage that a picture does to its process ends
with that process.
"""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from upscaled.workers.launcher import die_with_parent
from upscaled.workers.server import Message, RequestRefusedError

_MAX_ANSWER_BYTES = 1 << 20
_PIPE_BYTES = 1 << 16  # capacity of a pipe


class ChildDiedError(Exception):
    """The child ended without an answer.

    ``signal`` is what killed it, 0 if it ended by itself. ``words`` describes the exception that
    was not caught, if any.
    """

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.signal = number
        self.words = words


class _Answer(msgspec.Struct, omit_defaults=True):
    """The answer of a child; exactly one field is set."""

    reply: dict[str, Any] | None = None
    refused: tuple[str, str] | None = None
    """Kind and message of a `RequestRefusedError`."""
    words: str | None = None
    """An exception that was not caught."""


def run_in_child(work: Callable[[], Message]) -> dict[str, Any]:
    """Do ``work`` in a child process and return what it returned.

    Only call it from a process with one thread: after a fork the child has only that thread.

    Raises:
        RequestRefusedError: ``work`` raised it.
        ChildDiedError: it gave no answer.
    """
    parent = os.getpid()
    receiving, sending = os.pipe()
    # Garbage collection in the child would copy every page it touches; it is not needed.
    gc.freeze()
    child = os.fork()
    if child == 0:
        _answer(work, parent, sending)
    os.close(sending)
    said = _read(receiving)
    os.close(receiving)
    if len(said) >= _MAX_ANSWER_BYTES:  # not one of our answers: it could keep writing for ever
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    answer = _decoded(said)
    if code == 0 and answer.refused is not None:
        raise RequestRefusedError(*answer.refused)
    if code != 0 or answer.reply is None:
        raise ChildDiedError(max(0, -code), answer.words or "")
    return answer.reply


def _decoded(said: bytes) -> _Answer:
    """Return an answer; an empty one if the data is not an answer."""
    try:
        return msgspec.json.decode(said, type=_Answer)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Answer()


def _read(receiving: int) -> bytes:
    """Read from the child until it is done or has sent too much."""
    said = bytearray()
    while len(said) < _MAX_ANSWER_BYTES and (piece := os.read(receiving, _PIPE_BYTES)):
        said += piece
    return bytes(said)


def _close_all_but(sending: int) -> None:
    """Close the parent's descriptors: its pipes carry the requests and answers of others."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.closerange(3, sending)
    os.closerange(sending + 1, os.sysconf("SC_OPEN_MAX"))


def _answer(work: Callable[[], Message], parent: int, sending: int) -> NoReturn:
    """Answer through the pipe and end; runs in the child."""
    status = 1
    try:
        die_with_parent(parent)
        _close_all_but(sending)
        try:
            answer, status = _Answer(reply=dict(work())), 0
        except RequestRefusedError as error:
            answer, status = _Answer(refused=(error.kind, error.message)), 0
        except BaseException as error:
            traceback.print_exc()
            answer = _Answer(words=f"{type(error).__name__}: {error}")
        said = msgspec.json.encode(answer)
        while said:
            said = said[os.write(sending, said) :]
    finally:
        # Not an orderly exit: buffers and locks belong to the parent.
        os._exit(status)
