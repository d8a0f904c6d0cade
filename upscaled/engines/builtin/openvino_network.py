"""Inference on the OpenVINO library, inside the resident worker; on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from upscaled.engines.builtin import compiled_networks
from upscaled.engines.builtin.network import (
    Floats,
    InferenceError,
    Network,
    Pixels,
    check_finite,
    crop_margin,
)
from upscaled.engines.builtin.openvino_graph import model_of
from upscaled.engines.builtin.openvino_library import openvino
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.engine import PADDING


class OpenvinoNetwork(Network):
    """A network loaded into OpenVINO, from ncnn's files.

    Args:
        files: the two files and the names of the blobs.
        cores: inference threads of the process.
        threads: how many of them work on one tile; more than ``cores / threads`` tiles wait.
        padding: pixels around each tile.
        bf16: compute in bfloat16, except the layers that would lose most.
        kept: file of a compiled network, see `compiled_networks`; one that is there is used.

    Raises:
        UnknownGraphError: `graph` does not support a layer of the network.
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
        kept: Path | None = None,
    ) -> None:
        self._kept = kept
        self._idle: list[openvino.InferRequest] = []
        self._running = 0
        self._lock = threading.Lock()
        settings = {
            # Otherwise OpenVINO computes everything in bfloat16 where the processor can, which
            # differs from the native program by more than is allowed.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": max(1, cores // threads),
            # Decoding and encoding need the same cores.
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": True,
        }
        try:
            found = self._found(settings)
            self.was_kept = found is not None
            if found is None:
                model, self._margin = model_of(files, padding, bf16=bf16)
                self._compiled = openvino.Core().compile_model(model, "CPU", settings)
            else:
                self._compiled, self._margin = found
        except RuntimeError as error:
            raise InferenceError(
                "bad_model", f"OpenVINO can't use {files.param.name}: {_first_line(error)}"
            ) from None

    def _found(self, settings: dict[str, object]) -> tuple[openvino.CompiledModel, int] | None:
        """Return the compiled network that was kept, and its margin; None if there is none."""
        found = compiled_networks.read(self._kept)
        if found is None:
            return None
        network, margin = found
        try:
            return openvino.Core().import_model(network, "CPU", settings), margin
        except RuntimeError:  # it is built again
            compiled_networks.drop(self._kept)
            return None

    def keep(self) -> None:
        """Keep the compiled network for the next process."""
        if self._kept is not None and not self.was_kept:
            compiled_networks.keep(self._kept, self._exported(), self._margin)

    def _exported(self) -> bytes:
        exported: bytes = self._compiled.export_model().getvalue()
        return exported

    def run(self, pixels: Pixels) -> Floats:
        """See `Network.run`."""
        with self._lock:
            self._running += 1
            request = self._idle.pop() if self._idle else None
        try:
            request = request or self._compiled.create_infer_request()
            # Any free stream takes it; `infer` would bind this thread to one stream.
            request.start_async({0: np.ascontiguousarray(pixels)[None]})
            request.wait()
            made: Floats = request.get_output_tensor().data[0]
            planes = crop_margin(made, self._margin).copy()
        except RuntimeError as error:
            request = None
            raise InferenceError("failed", f"The network failed: {_first_line(error)}") from None
        finally:
            with self._lock:
                self._running -= 1
                if request is not None:
                    self._idle.append(request)
        check_finite(planes)
        return planes

    def release_memory(self) -> bool:
        """See `Network.release_memory`; nothing is freed while a tile runs."""
        with self._lock:  # the library refuses while a tile runs
            if self._running:
                return False
            self._idle.clear()
            self._compiled.release_memory()
        return True


def _first_line(error: RuntimeError) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{lines[-1].rstrip('.')}."
