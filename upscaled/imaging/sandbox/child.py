"""One request, one process: forked from the resident one, which has everything loaded already.

So a request can be confined to its own job's files, and whatever a picture does to the process
that decodes it ends with that picture.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from upscaled.workers.launcher import die_with_parent
from upscaled.workers.server import Message, RefusedError

_LONGEST_ANSWER = 1 << 20
_PIPE_BYTES = 1 << 16  # what a pipe holds


class ChildDiedError(Exception):
    """The child ended without an answer.

    ``signal`` is what killed it, 0 when it ended by itself; ``words`` are its last, if any.
    """

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.signal = number
        self.words = words


def run_in_child(work: Callable[[], Message]) -> dict[str, Any]:
    """Do ``work`` in a child process and return what it returned.

    Call it from a process with one thread only: the child has but the one that forks.

    Raises:
        RefusedError: ``work`` raised it.
        ChildDiedError: it did not come to an answer.
    """
    keeper = os.getpid()
    receiving, sending = os.pipe()
    # What the child's collector would look through is copied page by page; it needs none of it.
    gc.freeze()
    child = os.fork()
    if child == 0:
        _answer(work, keeper, sending)
    os.close(sending)
    said = _heard(receiving)
    os.close(receiving)
    if len(said) >= _LONGEST_ANSWER:  # no answer of ours: it may go on writing for ever
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    answer = json.loads(said) if code == 0 or said.startswith(b'{"words"') else {}
    if "refused" in answer:
        raise RefusedError(*answer["refused"])
    if "reply" not in answer:
        raise ChildDiedError(max(0, -code), answer.get("words", ""))
    reply: dict[str, Any] = answer["reply"]
    return reply


def _heard(receiving: int) -> bytes:
    """Return what the child says, until it has said all or too much."""
    said = bytearray()
    while len(said) < _LONGEST_ANSWER and (piece := os.read(receiving, _PIPE_BYTES)):
        said += piece
    return bytes(said)


def _let_go_of_all_but(sending: int) -> None:
    """Close what the keeper has open: its pipes carry the requests and answers of others."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.closerange(3, sending)
    os.closerange(sending + 1, os.sysconf("SC_OPEN_MAX"))


def _answer(work: Callable[[], Message], keeper: int, sending: int) -> NoReturn:
    """Be the child: answer through the pipe and end."""
    status = 1
    try:
        die_with_parent(keeper)
        _let_go_of_all_but(sending)
        answer: dict[str, Any]
        try:
            answer, status = {"reply": work()}, 0
        except RefusedError as error:
            answer, status = {"refused": [error.kind, error.message]}, 0
        except BaseException as error:
            traceback.print_exc()
            answer = {"words": f"{type(error).__name__}: {error}"}
        said = json.dumps(answer, separators=(",", ":")).encode()
        while said:
            said = said[os.write(sending, said) :]
    finally:
        # Not an orderly exit: buffers and locks are the keeper's.
        os._exit(status)
