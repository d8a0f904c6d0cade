"""Puts finished files into their places."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from upscaled import files
from upscaled.errors import UpscaledError


class OutputError(UpscaledError):
    """A result can't be written to its place, which is no fault of its picture."""

    code = "output_failed"


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
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            os.link(result, part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(result, part)
            files.sync(part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
