"""Inference on the OpenVINO library, inside the resident worker; on the CPU."""

from __future__ import annotations

import threading

import numpy as np

from upscaled.engines.builtin.messages import NetworkFiles
from upscaled.engines.builtin.network import (
    Floats,
    InferenceError,
    Network,
    Pixels,
    check_finite,
    without_margin,
)
from upscaled.engines.builtin.openvino_graph import model_of
from upscaled.engines.builtin.openvino_library import openvino
from upscaled.engines.engine import PADDING


class OpenvinoNetwork(Network):
    """A network loaded into OpenVINO, from ncnn's files.

    Args:
        files: the two files and the names of the blobs.
        cores: threads of the process's inference altogether.
        threads: of them for one tile; tiles beyond ``cores / threads`` at once wait.
        padding: pixels around each tile.
        bf16: calculate in bfloat16, but for what that would cost most.

    Raises:
        UnknownGraphError: the network is more than `graph` understands.
        InferenceError: OpenVINO refuses it (kind ``bad_model``).
    """

    def __init__(
        self,
        files: NetworkFiles,
        *,
        cores: int,
        threads: int,
        padding: int = PADDING,
        bf16: bool = False,
    ) -> None:
        self._idle: list[openvino.InferRequest] = []
        self._in_work = 0
        self._lock = threading.Lock()
        settings = {
            # Where the processor can, it would else calculate everything in bfloat16, also what
            # must not be: further from the native program's picture than is allowed.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": max(1, cores // threads),
            # Decoding and encoding want the same cores.
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": True,
        }
        try:
            model, self._margin = model_of(files, padding, bf16=bf16)
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise InferenceError(
                "bad_model", f"OpenVINO can't use {files.param.name}: {_first_line(error)}"
            ) from None

    def run(self, pixels: Pixels) -> Floats:
        """See `Network.run`."""
        with self._lock:
            self._in_work += 1
            request = self._idle.pop() if self._idle else None
        try:
            request = request or self._compiled.create_infer_request()
            # Put to whichever stream is free; `infer` would bind this thread to one of them.
            request.start_async({0: np.ascontiguousarray(pixels)[None]})
            request.wait()
            made: Floats = request.get_output_tensor().data[0]
            planes = without_margin(made, self._margin).copy()
        except RuntimeError as error:
            request = None
            raise InferenceError("failed", f"The network failed: {_first_line(error)}") from None
        finally:
            with self._lock:
                self._in_work -= 1
                if request is not None:
                    self._idle.append(request)
        check_finite(planes)
        return planes

    def rest(self) -> bool:
        """See `Network.rest`: as long as a tile is in work, all is kept."""
        with self._lock:  # none begins meanwhile, for which the library would refuse
            if self._in_work:
                return False
            self._idle.clear()
            self._compiled.release_memory()
        return True


def _first_line(error: RuntimeError) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{lines[-1].rstrip('.')}."
