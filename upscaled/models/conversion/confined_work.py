"""What processes that convert files share: they confine themselves, then do the work."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path

from upscaled import serial
from upscaled.imaging.sandbox import limits
from upscaled.imaging.sandbox.sandbox import enter_sandbox
from upscaled.models.conversion.converting import UNKNOWN_FAMILY, Conversion
from upscaled.models.conversion.errors import ConversionError, UnknownFamilyError
from upscaled.models.conversion.tensors import Weights
from upscaled.models.conversion.weights import read_weights
from upscaled.workers.server import Message, RequestRefusedError

_NICER = 10
"""Jobs come first."""
_CPU_SECONDS = 3600
_READING_SECONDS = 60
"""Processor time that reading a file may take; x4plus takes half a second. A small pickle can keep
its reader busy for years, with tuples of tuples whose hash is wanted, or numbers of one hash."""
_ROOM_FACTOR = 3
"""Size of what is written, as a multiple of the file: 16 bits become 32, and there is a pair of
each."""
_MOST_BYTES = 8 << 30
"""Of a file that is written; the largest weights that are read take 4 GiB in 32 bits."""

Work = Callable[[Conversion, Callable[[str], None]], Message]
"""Converts: takes the request and a function that reports each step, returns the reply."""


def limit_resources(memory_mb: int) -> None:
    """Limit this process's resources, and give jobs priority."""
    os.nice(_NICER)
    limits.confine(memory_mb)
    limits.allow(cpu_seconds=_CPU_SECONDS, file_bytes=_MOST_BYTES)


def weights_of(request: Conversion) -> Weights:
    """Return the weights of the file; the process ends if reading takes too much time."""
    with limits.processor_time(_READING_SECONDS):
        return read_weights(request.source, name=request.name)


def done(
    message: Message,
    event: Callable[[Message], None],
    work: Work,
    *,
    readable: Collection[Path] = (),
) -> Message:
    """Confine the process permanently, and do the work.

    Args:
        message: a `Conversion`.
        event: sends an event.
        work: what is done.
        readable: folders that may be read besides the file.

    Raises:
        RequestRefusedError: the file can't be converted.
    """
    request = serial.convert(message, Conversion)
    limit_resources(request.memory_mb)
    enter_sandbox([request.source, *readable], [request.workdir])
    try:
        return work(request, lambda step: event({"step": step}))
    except UnknownFamilyError as error:
        raise RequestRefusedError(UNKNOWN_FAMILY, error.message) from error
    except ConversionError as error:
        raise RequestRefusedError("conversion", error.message) from error
    except MemoryError as error:
        words = (
            f"{request.name} needs more than the {request.memory_mb} MiB that its conversion may "
            "have; it is damaged, or its network is far too large to use."
        )
        raise RequestRefusedError("conversion", words) from error
    except OSError as error:
        words = f"{request.name}: {error.strerror}."
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            room = _ROOM_FACTOR * (request.source.stat().st_size >> 20) + 1
            words = (
                f"There is no room beside the models to convert {request.name}; free {room} MiB on "
                "that disk."
            )
        raise RequestRefusedError("conversion", words) from error
