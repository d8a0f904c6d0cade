"""Writing to standard output and standard error, whatever they are connected to."""

from __future__ import annotations

import io
import os
from typing import TextIO

from upscaled.errors import UpscaledError


class UnwritableOutputError(UpscaledError):
    """What a command prints can't be written, for another reason than that its reader is gone."""


def prepare(stream: TextIO, *, json: bool) -> None:
    """Let names in any script be printed where the locale has no such letters; JSON is UTF-8."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8" if json else None, errors="replace")


def write_line(stream: TextIO, text: str) -> None:
    """Write a line.

    Raises:
        BrokenPipeError: the reader is gone.
        UnwritableOutputError: the disk is full, for instance.
    """
    try:
        stream.write(text + "\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error
    flush(stream)


def flush(stream: TextIO) -> None:
    """Write what is buffered; raises what `write_line` does."""
    try:
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def discard_rest(stream: TextIO) -> None:
    """Drop what can't be written, or Python would fail again when it flushes its buffer at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _unwritable(error: OSError) -> UnwritableOutputError:
    return UnwritableOutputError(f"The output can't be written: {error.strerror or error}.")
