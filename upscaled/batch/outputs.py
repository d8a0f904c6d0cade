"""Puts finished files into their places."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from upscaled import files
from upscaled.errors import UpscaledError

_CHUNK = 1 << 20


class OutputError(UpscaledError):
    """A result can't be written to its place, which is no fault of its picture."""

    code = "output_failed"


class OutputGoneError(UpscaledError):
    """The folder of the results was deleted or replaced while a run used it."""

    code = "output_gone"


class UnreadableError(UpscaledError):
    """A picture can't be read."""

    code = "unreadable"


@contextlib.contextmanager
def as_sentence(path: Path, kind: type[UpscaledError] = UpscaledError) -> Iterator[None]:
    """Turn an `OSError` about ``path`` into an error of ``kind`` with a sentence."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: {error.strerror or error}.") from error


def place(result: Path, target: Path) -> None:
    """Put the file ``result`` at ``target`` too, whole or not at all; blocking.

    It is linked where the file system can, else copied.

    Raises:
        OSError: it can't be written.
    """
    while True:
        part = files.part_beside(target)
        try:
            os.link(result, part)
        except OSError:  # another file system, or one without links
            _copy(result, target)
            return
        try:
            part.replace(target)
        except FileNotFoundError:  # another process took it for one that was left
            if not target.parent.exists():
                raise
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        else:
            # Nothing is renamed where both names are one file already.
            part.unlink(missing_ok=True)
            return


def _copy(result: Path, target: Path) -> None:
    with result.open("rb") as source, files.replacing(target, durable=True) as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
