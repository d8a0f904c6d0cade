"""Inference on the ncnn library, inside the resident worker; on the CPU or a Vulkan device."""

from __future__ import annotations

import threading
import traceback

import ncnn
import numpy as np

from upscaled.engines.builtin.graph import UnknownGraphError, param_text, read_graph
from upscaled.engines.builtin.messages import NetworkFiles
from upscaled.engines.builtin.narrowing import narrowed
from upscaled.engines.builtin.network import (
    Floats,
    InferenceError,
    Network,
    Pixels,
    check_finite,
    without_margin,
)
from upscaled.engines.engine import PADDING


class NcnnNetwork(Network):
    """A network loaded into ncnn, for a Vulkan device (by index) or the CPU (None).

    Args:
        files: the two files and the names of the blobs.
        device: where it runs.
        threads: for one tile; how the weights are laid out depends on it, so it is fixed.
        lean: without what makes weights and layers larger and quicker. x4plus takes 160 MB
            instead of 480 for its smallest tile, and longer (docs/engines.md).
        padding: pixels around each tile. With none, the network is run as the files have it.

    Raises:
        InferenceError: the library can't read the files (kind ``bad_model``).
    """

    def __init__(
        self,
        files: NetworkFiles,
        *,
        device: int | None,
        threads: int,
        lean: bool = False,
        padding: int = PADDING,
    ) -> None:
        self._files = files
        self._padding = padding
        self._on_cpu = device is None
        self._idle: list[_Workspace] = []
        self._lock = threading.Lock()
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        # Half precision is left to the GPUs, with the native programs' options: 16-bit storage,
        # 32-bit arithmetic. ARM processors would else calculate in 16 bits.
        options.use_vulkan_compute = device is not None
        options.use_fp16_packed = device is not None
        options.use_fp16_storage = device is not None
        options.use_fp16_arithmetic = False
        options.use_winograd_convolution = not lean
        options.use_sgemm_convolution = not lean
        if device is not None:
            self._net.set_vulkan_device(device)
        self._margin = self._load_layers()
        if self._net.load_model(str(files.bin)) != 0:
            raise InferenceError(
                "bad_model", f"{files.bin.name} is too short or not of {files.param.name}."
            )

    def _load_layers(self) -> int | None:
        """Load the ``.param``, narrowed if it is understood.

        Returns:
            The pixels on each side of the output that do not belong to the tile; None: its padding,
            as much enlarged as the tile.
        """
        files, margin = self._files, None
        text = ""
        if self._padding:
            try:
                layers = read_graph(files.param, None)
                made = narrowed(layers, files.input_blob, files.output_blob, self._padding)
                text, margin = param_text(made.layers, files.input_blob), made.margin
            except (UnknownGraphError, OSError):
                pass  # it is run as the files have it, or the library says what is wrong with them
        status = self._net.load_param_mem(text) if text else self._net.load_param(str(files.param))
        if status != 0:
            raise InferenceError("bad_model", f"{files.param.name} is not an ncnn network.")
        return margin

    def run(self, pixels: Pixels) -> Floats:
        """See `Network.run`."""
        with self._lock:
            workspace = self._idle.pop() if self._idle else _Workspace()
        try:
            planes = self._extract(pixels, workspace)
        except BaseException as error:
            # Whoever keeps the error must not keep blobs with it: to free one after the workspace
            # it lies in crashes the process.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            with self._lock:
                self._idle.append(workspace)
        check_finite(planes)
        return planes

    def _extract(self, pixels: Pixels, workspace: _Workspace) -> Floats:
        height, width, _ = pixels.shape
        # from_pixels copies, so nothing here borrows the array's memory.
        blob = ncnn.Mat.from_pixels(
            np.ascontiguousarray(pixels), ncnn.Mat.PixelType.PIXEL_RGB, width, height
        )
        blob.substract_mean_normalize([], [1 / 255.0] * 3)
        extractor = self._net.create_extractor()
        if self._on_cpu:
            workspace.serve(extractor)
        if extractor.input(self._files.input_blob, blob) != 0:
            raise InferenceError("failed", f"The network has no input {self._files.input_blob}.")
        status, output = extractor.extract(self._files.output_blob)
        if status != 0 or output.empty():
            raise InferenceError(
                "failed", f"The network failed on a tile of {width}×{height} pixels ({status})."
            )
        # The view borrows memory of the workspace, which must not outlive it.
        made: Floats = output.numpy()
        margin = self._margin
        if margin is None:
            margin = self._padding * made.shape[-1] // width
        return without_margin(made, margin).copy()

    def rest(self) -> bool:
        """See `Network.rest`."""
        with self._lock:
            for workspace in self._idle:
                workspace.clear()
        return True


class _Workspace:
    """The memory of a tile's layers. The library's own, one for all, can't be emptied."""

    def __init__(self) -> None:
        self._blobs = ncnn.PoolAllocator()
        self._others = ncnn.PoolAllocator()

    def serve(self, extractor: ncnn.Extractor) -> None:
        """Have an extractor use this memory; nobody else may at the same time."""
        extractor.set_blob_allocator(self._blobs)
        extractor.set_workspace_allocator(self._others)

    def clear(self) -> None:
        """Free what is not in use."""
        self._blobs.clear()
        self._others.clear()
