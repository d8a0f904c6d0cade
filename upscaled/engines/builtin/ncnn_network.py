"""Inference on the ncnn library, inside the resident worker; on the CPU or a Vulkan device."""

from __future__ import annotations

import threading
import traceback

import ncnn
import numpy as np

from upscaled.engines.builtin.graph import UnknownGraphError, param_text, read_graph
from upscaled.engines.builtin.network import (
    Floats,
    InferenceError,
    Network,
    Pixels,
    check_finite,
    crop_margin,
)
from upscaled.engines.builtin.padding_trim import trim_padding
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.engine import PADDING


class NcnnNetwork(Network):
    """A network loaded into ncnn, for a Vulkan device (by index) or the CPU (None).

    Args:
        files: the two files and the names of the blobs.
        device: where it runs.
        threads: for one tile; the layout of the weights depends on it, so it is fixed.
        lean: without Winograd transforms and matrix layouts. x4plus takes 160 MB instead of 480 MB
            for its smallest tile, at half the speed (docs/engines.md).
        padding: pixels around each tile; 0 disables padding trim.

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
        # GPUs use the native programs' options: 16-bit storage, 32-bit arithmetic. The CPU uses 32
        # bits; by default ARM processors would compute in 16 bits.
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
        """Load the ``.param``, with padding trim if its layers are supported.

        Returns:
            Pixels on each side of the output that do not belong to the tile; None: the whole
            padding, enlarged like the tile.
        """
        files, margin = self._files, None
        text = ""
        if self._padding:
            try:
                layers = read_graph(files.param, None)
                made = trim_padding(layers, files.input_blob, files.output_blob, self._padding)
                text, margin = param_text(made.layers, files.input_blob), made.margin
            except (UnknownGraphError, OSError):
                pass  # run it unchanged; the library reports broken files
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
            # Whoever keeps the error must not keep blobs alive: freeing a blob after its workspace
            # crashes the process.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            with self._lock:
                self._idle.append(workspace)
        check_finite(planes)
        return planes

    def _extract(self, pixels: Pixels, workspace: _Workspace) -> Floats:
        height, width, _ = pixels.shape
        # from_pixels copies, so nothing here refers to the array's memory.
        blob = ncnn.Mat.from_pixels(
            np.ascontiguousarray(pixels), ncnn.Mat.PixelType.PIXEL_RGB, width, height
        )
        blob.substract_mean_normalize([], [1 / 255.0] * 3)
        extractor = self._net.create_extractor()
        if self._on_cpu:
            workspace.attach(extractor)
        if extractor.input(self._files.input_blob, blob) != 0:
            raise InferenceError("failed", f"The network has no input {self._files.input_blob}.")
        status, output = extractor.extract(self._files.output_blob)
        if status != 0 or output.empty():
            raise InferenceError(
                "failed", f"The network failed on a tile of {width}×{height} pixels ({status})."
            )
        # This view of the workspace's memory must not outlive the workspace.
        made: Floats = output.numpy()
        margin = self._margin
        if margin is None:
            margin = self._padding * made.shape[-1] // width
        return crop_margin(made, margin).copy()

    def release_memory(self) -> bool:
        """See `Network.release_memory`."""
        with self._lock:
            for workspace in self._idle:
                workspace.clear()
        return True


class _Workspace:
    """The memory of a tile's layers. The library's default allocator can't be emptied."""

    def __init__(self) -> None:
        self._blobs = ncnn.PoolAllocator()
        self._others = ncnn.PoolAllocator()

    def attach(self, extractor: ncnn.Extractor) -> None:
        """Make an extractor use this memory; only one may at a time."""
        extractor.set_blob_allocator(self._blobs)
        extractor.set_workspace_allocator(self._others)

    def clear(self) -> None:
        """Free all memory that is not in use."""
        self._blobs.clear()
        self._others.clear()
