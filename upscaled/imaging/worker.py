"""The imaging process: ``python -m upscaled.imaging.worker PARENT_PID SETTINGS_JSON``.

It decodes untrusted data only in its children, under limits and in a sandbox. It writes a result
itself only if that is small and made of decoded pixels alone: then a child would take longer than
the work.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from PIL import Image

from upscaled import serial
from upscaled.errors import (
    SHORTAGE,
    BadRequestError,
    EngineError,
    NotAPictureError,
    UnusablePictureError,
    no_room,
)
from upscaled.imaging import protocol
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.encode.body import encode_body
from upscaled.imaging.encode.finish import finish_band
from upscaled.imaging.prepared import Prepared
from upscaled.imaging.protocol import (
    AnyRequest,
    CheckRequest,
    CropRequest,
    EncodeRequest,
    FinishRequest,
    PingRequest,
    PrepareRequest,
    ProbeRequest,
    ProbesRequest,
    Request,
    ViewRequest,
)
from upscaled.imaging.sandbox import limits
from upscaled.imaging.sandbox.child import ChildDiedError, run_in_child
from upscaled.imaging.sandbox.sandbox import Confinement, enter_sandbox, restrictions
from upscaled.imaging.verify.thresholds import UnlikeError
from upscaled.imaging.verify.verify import verify_rows
from upscaled.imaging.view.crop import crop
from upscaled.imaging.view.pyramid import write_pyramid
from upscaled.imaging.view.rows import open_rows
from upscaled.imaging.view.thumbnail import write_thumbnail
from upscaled.workers.server import Message, RequestRefusedError, serve

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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
            RequestRefusedError: its kind says which error of `upscaled.errors` it is.
        """
        request = cast("AnyRequest", serial.convert(message, cast("type[Any]", AnyRequest)))
        if isinstance(request, FinishRequest) and request.small:
            with self._errors_as_refusals():
                return cast("Message", serial.plain(self._finish(request)))
        try:
            return run_in_child(lambda: self._confined(request))
        except ChildDiedError as death:
            raise _refusal_after(death, request) from death
        except OSError as error:
            if error.errno not in SHORTAGE:
                raise
            words = f"The imaging process could not start a child: {error.strerror}."
            raise RequestRefusedError("shortage", words) from error

    def _confined(self, request: AnyRequest) -> Message:
        limits.allow(
            cpu_seconds=request.cpu_seconds, file_bytes=request.file_bytes(self.max_pixels)
        )
        writable = [] if request.folder is None else [request.folder]
        confinement = enter_sandbox(request.reads, writable)
        missing = sorted(set(request.required) - set(confinement.active))
        if missing:
            raise RequestRefusedError(
                "unconfined", f"It cannot be confined any more: {confinement}."
            )
        with self._errors_as_refusals():
            return cast("Message", serial.plain(self._answer(request, confinement)))

    def _answer(  # noqa: PLR0911 - one for each kind
        self, request: AnyRequest, confinement: Confinement
    ) -> protocol.Reply:
        match request:
            case PingRequest():
                return protocol.PingReply(confinement.active, confinement.lacking)
            case ProbeRequest():
                return self._probe(request)
            case ProbesRequest():
                return protocol.ProbesReply(tuple(map(self._header, request.uploads)))
            case PrepareRequest():
                return protocol.PrepareReply(self._prepare(request))
            case CheckRequest():
                band = (request.band.top, request.band.bottom, request.band.limit)
                score = verify_rows(request.source, request.native, *band, threads=self.threads)
                return protocol.CheckReply(score)
            case EncodeRequest():
                return self._encode(request)
            case FinishRequest():
                return self._finish(request)
            case ViewRequest():
                return self._view(request)
            case CropRequest():
                return self._crop(request)

    def _crop(self, request: CropRequest) -> protocol.PrepareReply:
        made = crop(request.upload, request.workdir, request.box, self.formats, self.max_pixels)
        return protocol.PrepareReply(_prepared_reply(made))

    def _view(self, request: ViewRequest) -> protocol.ViewReply:
        path = request.workdir / protocol.VIEW
        with open_rows(request.picture, self.formats, self.max_pixels) as rows:
            if request.tiles:
                write_pyramid(rows, path, threads=self.threads)
            else:
                write_thumbnail(rows, path)
        return protocol.ViewReply(rows.size.width, rows.size.height)

    def _probe(self, request: ProbeRequest) -> protocol.ProbeReply:
        opened = open_picture(request.upload, self.formats, self.max_pixels)
        with opened:
            probe = opened.probe()
        prepared, broken = None, ""
        if request.workdir is not None and probe.size.pixels <= request.max_pixels:
            try:
                prepared = self._prepare(request)
            except UnusablePictureError as error:
                broken = error.message[:300]
            except (OSError, MemoryError):
                pass  # not the picture's fault; the job decodes it again
        return protocol.ProbeReply(
            probe.format, probe.size.width, probe.size.height, probe.has_alpha, prepared, broken
        )

    def _header(self, upload: Path) -> protocol.ProbeReply | None:
        try:
            return self._probe(ProbeRequest(upload=upload))
        except Exception:  # whatever it is, it is told when the header is asked for alone
            return None

    def _prepare(self, request: ProbeRequest | PrepareRequest) -> protocol.PreparedReply:
        assert request.workdir is not None  # noqa: S101 - the caller saw to it
        return _prepared_reply(
            prepare(request.upload, request.workdir, self.formats, self.max_pixels)
        )

    def _encode(self, request: EncodeRequest) -> protocol.EncodeReply:
        made = encode_body(
            request.prepared,
            request.native,
            request.path,
            request.options,
            request.band,
            threads=self.threads,
        )
        return protocol.EncodeReply(made.score, made.strips)

    def _finish(self, request: FinishRequest) -> protocol.FinishReply:
        before = request.written
        written = finish_band(
            request.prepared,
            request.native,
            request.workdir,
            request.options,
            request.band,
            before,
            request.body,
            threads=self.threads,
        )
        done = written.finished
        return protocol.FinishReply(
            written.rows,
            written.length,
            written.state,
            written.score,
            written.pieces[len(before.pieces) :],
            None
            if done is None
            else protocol.FileReply(done.file_size_bytes, done.sha256, done.kept, done.lost),
        )

    @contextlib.contextmanager
    def _errors_as_refusals(self) -> Iterator[None]:
        try:
            yield
        except BadRequestError as error:
            raise RequestRefusedError("bad_request", error.message) from error
        except NotAPictureError as error:
            raise RequestRefusedError("not_a_picture", error.message) from error
        except UnusablePictureError as error:
            raise RequestRefusedError("unusable", error.message) from error
        except UnlikeError as error:
            raise RequestRefusedError("unlike", error.message) from error
        except EngineError as error:
            raise RequestRefusedError("engine", error.message) from error
        except MemoryError as error:
            words = f"The picture needs more than the {self.memory_limit_mb} MiB an imaging "
            raise RequestRefusedError("no_memory", words + "process may have.") from error
        except OSError as error:
            if error.errno in _NO_SPACE:
                words = "There is not enough disk space for this picture's files."
                raise RequestRefusedError("no_space", no_room(error, words)) from error
            raise RequestRefusedError("engine", f"A file cannot be used: {error}.") from error


def _prepared_reply(made: Prepared) -> protocol.PreparedReply:
    size = made.source.size
    has_alpha, has_sidecar = made.alpha is not None, made.sidecar is not None
    return protocol.PreparedReply(
        size.width, size.height, has_alpha, has_sidecar, made.kept, made.lost, made.grey
    )


def _refusal_after(death: ChildDiedError, request: Request) -> RequestRefusedError:
    """Return the error for the death of the process that handled ``request``."""
    if death.signal == signal.SIGKILL:
        words = "The system ended the imaging process, most likely because memory ran out."
        return RequestRefusedError("killed", words)
    if death.signal == signal.SIGXCPU and request.decodes:
        what = "its header" if isinstance(request, ProbeRequest) else "it"
        words = f"reading {what} takes more than {request.cpu_seconds} s of processor time."
        return RequestRefusedError("unusable", f"image decode failed: {words}")
    if death.signal and request.decodes:
        name = signal.Signals(death.signal).name
        words = f"the decoder crashed on it ({name})."
        return RequestRefusedError("crashed", f"image decode failed: {words}")
    words = death.words or f"signal {death.signal}"
    kind = "died" if death.signal not in {0, signal.SIGXCPU} else "engine"
    return RequestRefusedError(kind, f"A picture's processing broke off: {words}.")


def main() -> None:
    """Answer requests until the parent closes the pipe or dies."""
    handler = msgspec.json.decode(sys.argv[2], type=RequestHandler)
    limits.confine(handler.memory_limit_mb)
    Image.init()  # all codecs, and the sandbox's rules: loaded once, not in every child

    restrictions()
    serve(handler.handle, threaded=False)


if __name__ == "__main__":
    main()
