"""One request, one process: forked from the resident one, which has everything loaded already.

So a request can be confined to its own job's files, and whatever a picture does to the process
that decodes it ends with that picture.
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
from upscaled.workers.server import Message, RefusedError

_MAX_ANSWER_BYTES = 1 << 20
_PIPE_BYTES = 1 << 16  # what a pipe holds


class ChildDiedError(Exception):
    """The child ended without an answer.

    ``signal`` is what killed it, 0 when it ended by itself; ``words`` are its last, if any.
    """

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.signal = number
        self.words = words


class _Answer(msgspec.Struct, omit_defaults=True):
    """What a child sends; one of the three."""

    reply: dict[str, Any] | None = None
    refused: tuple[str, str] | None = None
    """Kind and message of a `RefusedError`."""
    words: str | None = None
    """An exception that nobody caught."""


def run_in_child(work: Callable[[], Message]) -> dict[str, Any]:
    """Do ``work`` in a child process and return what it returned.

    Call it from a process with one thread only: the child has but the one that forks.

    Raises:
        RefusedError: ``work`` raised it.
        ChildDiedError: it gave no answer.
    """
    parent = os.getpid()
    receiving, sending = os.pipe()
    # What the child's collector would look through is copied page by page; it needs none of it.
    gc.freeze()
    child = os.fork()
    if child == 0:
        _answer(work, parent, sending)
    os.close(sending)
    said = _read(receiving)
    os.close(receiving)
    if len(said) >= _MAX_ANSWER_BYTES:  # no answer of ours: it may go on writing for ever
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    answer = _decoded(said)
    if code == 0 and answer.refused is not None:
        raise RefusedError(*answer.refused)
    if code != 0 or answer.reply is None:
        raise ChildDiedError(max(0, -code), answer.words or "")
    return answer.reply


def _decoded(said: bytes) -> _Answer:
    """Return an answer; an empty one where what was said is none."""
    try:
        return msgspec.json.decode(said, type=_Answer)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Answer()


def _read(receiving: int) -> bytes:
    """Return what the child says, until it has said all or too much."""
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
    """Be the child: answer through the pipe and end."""
    status = 1
    try:
        die_with_parent(parent)
        _close_all_but(sending)
        try:
            answer, status = _Answer(reply=dict(work())), 0
        except RefusedError as error:
            answer, status = _Answer(refused=(error.kind, error.message)), 0
        except BaseException as error:
            traceback.print_exc()
            answer = _Answer(words=f"{type(error).__name__}: {error}")
        said = msgspec.json.encode(answer)
        while said:
            said = said[os.write(sending, said) :]
    finally:
        # Not an orderly exit: buffers and locks are the parent's.
        os._exit(status)
