"""The imaging process: ``python -m upscaled.imaging.worker PARENT_PID SETTINGS_JSON``.

Strangers' bytes are decoded in its children and nowhere else, under limits and in a cell. Only
a small result that is made of nothing but pixels is written by the process itself: a child would
cost more than the work.
"""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from upscaled.errors import EngineError, NotAPictureError, UnusablePictureError
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.encode.finish import finish_band
from upscaled.imaging.records import (
    Band,
    FinishOptions,
    Prepared,
    UnlikeError,
    Written,
    raw_from_json,
)
from upscaled.imaging.sandbox import limits
from upscaled.imaging.sandbox.child import ChildDiedError, run_in_child
from upscaled.imaging.sandbox.sandbox import enter_sandbox, restrictions
from upscaled.imaging.verify.verify import verify_rows
from upscaled.workers.server import Message, RefusedError, serve

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_METADATA_BYTES = 64 << 20


@dataclass(frozen=True)
class RequestHandler:
    """Answers requests, each in a child process that is confined to that request's files."""

    formats: tuple[str, ...]
    max_pixels: int
    memory_limit_mb: int
    threads: int

    def handle(self, message: Message, _: Callable[[Message], None]) -> Message:
        """Answer one request.

        Raises:
            RefusedError: its kind says which error of `upscaled.errors` it is.
        """
        if message.get("own_pixels_only"):
            with self._errors_as_refusals():
                return self._finish(message)
        try:
            return run_in_child(lambda: self._confined(message))
        except ChildDiedError as death:
            raise _refusal_after(death, message) from death

    def _confined(self, message: Message) -> Message:
        limits.allow(cpu_seconds=message["cpu_seconds"], file_bytes=self._file_bytes(message))
        writable = [Path(message["workdir"])] if "workdir" in message else []
        confinement = enter_sandbox([Path(path) for path in message["reads"]], writable)
        if message["do"] == "ping":
            return {"active": confinement.active, "lacking": confinement.lacking}
        with self._errors_as_refusals():
            reply: Message = getattr(self, f"_{message['do']}")(message)
        return reply

    def _file_bytes(self, message: Message) -> int:
        """Return how long a file this request may write."""
        if message["do"] == "prepare" or (message["do"] == "probe" and "workdir" in message):
            return 3 * self.max_pixels + _METADATA_BYTES
        if message["do"] == "finish":
            options = FinishOptions.from_json(message["options"])
            return 5 * options.size.pixels + _METADATA_BYTES
        return 0

    def _probe(self, message: Message) -> dict[str, Any]:
        upload = Path(message["upload"])
        opened = open_picture(upload, self.formats, self.max_pixels)
        with opened:
            probe = opened.probe()
        prepared = None
        if "workdir" in message and probe.size.pixels <= message["most_pixels"]:
            # What does not decode is for the job to tell.
            with contextlib.suppress(UnusablePictureError, OSError, MemoryError):
                workdir = Path(message["workdir"])
                prepared = prepare(upload, workdir, self.formats, self.max_pixels).to_json()
        return {
            "format": probe.format,
            "width": probe.size.width,
            "height": probe.size.height,
            "has_alpha": probe.has_alpha,
            "prepared": prepared,
        }

    def _prepare(self, message: Message) -> dict[str, Any]:
        workdir = Path(message["workdir"])
        made = prepare(Path(message["upload"]), workdir, self.formats, self.max_pixels)
        return {"prepared": made.to_json()}

    def _check(self, message: Message) -> dict[str, Any]:
        source, native = raw_from_json(message["source"]), raw_from_json(message["native"])
        rows = (message["top"], message["bottom"], message["limit"])
        return {"score": verify_rows(source, native, *rows, threads=self.threads)}

    def _finish(self, message: Message) -> dict[str, Any]:
        written = finish_band(
            Prepared.from_json(message["prepared"]),
            raw_from_json(message["native"]),
            Path(message["workdir"]),
            FinishOptions.from_json(message["options"]),
            Band(*message["band"]),
            Written.from_json(message["written"]),
            threads=self.threads,
        )
        done = written.finished
        return {
            "written": written.to_json(),
            "finished": None if done is None else done.to_json(),
        }

    @contextlib.contextmanager
    def _errors_as_refusals(self) -> Iterator[None]:
        try:
            yield
        except NotAPictureError as error:
            raise RefusedError("not_a_picture", error.message) from error
        except UnusablePictureError as error:
            raise RefusedError("unusable", error.message) from error
        except UnlikeError as error:
            raise RefusedError("unlike", error.message) from error
        except EngineError as error:
            raise RefusedError("engine", error.message) from error
        except MemoryError as error:
            words = f"The picture needs more than the {self.memory_limit_mb} MiB an imaging "
            raise RefusedError("no_memory", words + "process may have.") from error
        except OSError as error:
            if error.errno in _NO_SPACE:
                words = "There is not enough disk space for this picture's files."
                raise RefusedError("no_space", words) from error
            raise RefusedError("engine", f"A file cannot be used: {error}.") from error


def _refusal_after(death: ChildDiedError, message: Message) -> RefusedError:
    """Return what the death of the process that worked on a request means."""
    reading = message["do"] in {"probe", "prepare"}
    if death.signal == signal.SIGKILL:
        words = "The system ended the imaging process, most likely because memory ran out."
        return RefusedError("no_memory", words)
    if death.signal == signal.SIGXCPU and reading:
        words = f"reading it takes more than {message['cpu_seconds']} s of processor time."
        return RefusedError("unusable", f"image decode failed: {words}")
    if death.signal and reading:
        name = signal.Signals(death.signal).name
        words = f"the decoder crashed on it ({name})."
        return RefusedError("unusable", f"image decode failed: {words}")
    words = death.words or f"signal {death.signal}"
    return RefusedError("engine", f"A picture's processing broke off: {words}.")


def main() -> None:
    """Answer requests until the parent closes the pipe or dies."""
    settings = json.loads(sys.argv[2])
    limits.confine(settings["memory_limit_mb"])
    Image.init()  # all codecs, and what the cell is made of: loaded once, not in every child
    restrictions()
    handler = RequestHandler(
        tuple(settings["formats"]),
        settings["max_pixels"],
        settings["memory_limit_mb"],
        settings["threads"],
    )
    serve(handler.handle, threaded=False)


if __name__ == "__main__":
    main()
