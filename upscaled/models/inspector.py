"""Dry runs of networks in a child process: a damaged file can crash the ncnn library."""

from __future__ import annotations

from upscaled.engines.builtin.protocol import (
    WORKER_MODULE,
    Findings,
    NetworkFiles,
    encode_network,
    worker_arguments,
    worker_env,
)
from upscaled.engines.engine import CPU
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import (
    WorkerDiedError,
    WorkerRefusedError,
    WorkerShortageError,
    WorkerStuckError,
)

_TIMEOUT_SECONDS = 120.0
"""A dry run of x4plus takes 3 s on two cores."""


class UnusableModelError(Exception):
    """A network can't be used; the message is a sentence.

    ``lasting`` is false if the cause may be temporary.
    """

    def __init__(self, message: str, *, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


async def inspect(files: NetworkFiles) -> Findings:
    """Measure a network in a process of its own.

    Raises:
        UnusableModelError: it can't be loaded or run, or is not an enlarger of RGB pictures.
    """
    worker = WorkerClient(
        WORKER_MODULE,
        name="model inspection",
        arguments=worker_arguments(CPU, threads=0),
        env=worker_env(),
    )
    try:
        reply = await worker.request(encode_network(files), timeout=_TIMEOUT_SECONDS)
    except WorkerRefusedError as error:
        raise UnusableModelError(error.message, lasting=True) from None
    except (WorkerShortageError, WorkerStuckError) as error:
        raise UnusableModelError(
            f"{files.param.name} could not be measured: {error}.", lasting=False
        ) from None
    except WorkerDiedError as error:
        raise UnusableModelError(
            f"{files.param.name} breaks the ncnn library: {error}.", lasting=False
        ) from None
    except TimeoutError:
        raise UnusableModelError(
            f"{files.param.name} took more than {_TIMEOUT_SECONDS:g} seconds for a small picture.",
            lasting=False,
        ) from None
    finally:
        await worker.close()
    return Findings(**reply)
