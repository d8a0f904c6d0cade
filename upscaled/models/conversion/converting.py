"""A file's conversion in a process of its own, which can reach that file and its work folder only.

Whatever a hostile file does to its reader, it does there: it has no network, starts no program,
and its memory and time are bounded. `worker` is the other end.
"""

from __future__ import annotations

import asyncio
import signal
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from upscaled import serial
from upscaled.errors import ShortageError
from upscaled.models.conversion.definition import SIZE, TILES, Pixels
from upscaled.models.conversion.errors import ConversionError, UnknownFamilyError
from upscaled.workers.client import WorkerClient
from upscaled.workers.environment import plain_env
from upscaled.workers.errors import (
    WorkerDiedError,
    WorkerError,
    WorkerRefusedError,
    WorkerShortageError,
)

_WORKER_MODULE = "upscaled.models.conversion.worker"
_SECONDS = 900.0
"""Of a conversion; x4plus takes 8 s on two cores."""
_MEMORY_MB = 3072
"""Address space besides the weights; x4plus takes 0.7 GB with them."""
_WEIGHTS_FACTOR = 8
"""Address space for the weights, as a multiple of the file: 16 bits become 32, and some are held
twice for a moment."""

_MAX_MESSAGE = 1000
"""Characters of an error message."""

UNKNOWN_FAMILY = "unknown_family"
"""The error kind for a valid file whose network the process does not know."""

EXACT, HALF = "exact", "half"
"""Stems of the pairs with weights in 32 and in 16 bits."""


@dataclass(frozen=True)
class Conversion:
    """What the process is asked."""

    source: Path
    workdir: Path
    """An existing folder, in which it writes the pairs and the expected pictures."""
    name: str
    """Of the file, for messages."""
    activation: str | None
    memory_mb: int


@dataclass(frozen=True)
class Converted:
    """What a file was made into; the pairs are in the work folder."""

    sha256: str
    architecture: str
    size: str
    """In the family's words: ``64 features, 23 blocks``."""
    scale: int
    parameters: int
    fits_half: bool
    """There is a pair with weights in 16 bits too."""


def expected_path(workdir: Path, tile: int) -> Path:
    """Return where the picture is that the definition makes in tiles of this size."""
    return workdir / f"expected-{tile}.rgb"


async def converted(
    source: Path,
    workdir: Path,
    *,
    name: str,
    activation: str | None,
    on_step: Callable[[str], None],
    seconds: float = _SECONDS,
    module: str = _WORKER_MODULE,
    memory_mb: int = _MEMORY_MB,
    env: Mapping[str, str] | None = None,
) -> Converted:
    """Read a file and write it as pairs, in a process of its own.

    Args:
        source: the file.
        workdir: an existing folder.
        name: of the file, for messages.
        activation: see `ImportRequest`.
        on_step: is told what is being done.
        seconds: that it may take.
        module: what the process runs.
        memory_mb: address space besides the weights.
        env: additional variables of the process.

    Raises:
        UnknownFamilyError: the process does not know the network's family.
        ConversionError: the file cannot be used; the message says why.
        OSError: it can't be read.
        ShortageError: the system cannot start a process.
    """
    found = await asyncio.to_thread(source.stat)
    if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device might never end
        raise ConversionError(f"{sentence(name)} is not a regular file; name the model's file.")
    memory_mb += _WEIGHTS_FACTOR * (found.st_size >> 20)
    # The process may read the file, but no link to it. Downloads of Hugging Face are links.
    source, workdir = await asyncio.to_thread(lambda: (source.resolve(), workdir.absolute()))
    request = Conversion(source, workdir, name, activation, memory_mb)
    # One thread until the process is confined: running ones would stay free.
    plain = plain_env(OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="2", **(env or {}))
    worker = WorkerClient(module, name="conversion", env=plain)
    try:
        reply = await worker.request(
            serial.plain(request), on_event=lambda event: on_step(event["step"]), timeout=seconds
        )
    except WorkerRefusedError as error:
        kind = UnknownFamilyError if error.kind == UNKNOWN_FAMILY else ConversionError
        raise kind(sentence(error.message)) from None
    except WorkerShortageError as error:
        raise ShortageError(f"{error}.") from None
    except WorkerDiedError as error:
        if error.returncode == -signal.SIGXCPU:
            raise ConversionError(
                f"{sentence(name)} takes far too long to read; it is damaged, or made to keep its "
                "reader busy."
            ) from None
        words = sentence(f"{name} breaks its reader ({error}); it is damaged.")
        raise ConversionError(words) from None
    except WorkerError as error:
        raise ShortageError(f"{error}.") from None
    except TimeoutError:
        raise ConversionError(
            f"{name} takes more than {seconds:g} seconds to convert, so its network would be far "
            "too slow to use."
        ) from None
    finally:
        await worker.close()
    return serial.convert(reply, Converted)


def read_expectations(workdir: Path, scale: int) -> dict[int, Pixels]:
    """Return what the definition makes of the test picture, by tile size; blocking."""
    shape = (SIZE.height * scale, SIZE.width * scale, 3)
    return {
        tile: np.frombuffer(expected_path(workdir, tile).read_bytes(), np.uint8).reshape(shape)
        for tile in TILES
    }


def sentence(text: str) -> str:
    """Return a message that may hold names of the file's, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_MESSAGE])
