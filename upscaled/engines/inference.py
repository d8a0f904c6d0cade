"""Inference on the ncnn library, inside the resident worker: one tile in, its bytes out."""

from __future__ import annotations

import ncnn
import numpy as np
from numpy.typing import NDArray

from upscaled.engines.messages import NetworkFiles

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_BLOCK = 64 * 1024
"""Floats turned into bytes at a time: they and their bytes stay in the second-level cache."""


class InferenceError(Exception):
    """The network can't be loaded or run; ``kind`` is a name, the message a sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Network:
    """A loaded network on a Vulkan device (by index) or on the CPU (None).

    Several threads may run one network at once.

    Args:
        files: the two files and the names of the blobs.
        device: where it runs.
        threads: for one tile; how the weights are laid out depends on it, so it is fixed.
        lean: without what makes weights and layers larger and quicker. x4plus takes 160 MB
            instead of 480 for its smallest tile, and longer (docs/engines.md).

    Raises:
        InferenceError: the library can't read the files (kind ``bad_model``).
    """

    def __init__(
        self, files: NetworkFiles, *, device: int | None, threads: int, lean: bool = False
    ) -> None:
        self._files = files
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
        if self._net.load_param(str(files.param)) != 0:
            raise InferenceError("bad_model", f"{files.param.name} is not an ncnn network.")
        if self._net.load_model(str(files.bin)) != 0:
            raise InferenceError(
                "bad_model", f"{files.bin.name} is too short or not of {files.param.name}."
            )

    def run(self, pixels: Pixels) -> Floats:
        """Run the network on one padded tile, (height, width, 3) bytes of RGB.

        Returns:
            Planes (3, height × scale, width × scale), nominally 0 to 1.

        Raises:
            InferenceError: the network failed (kind ``failed``), or not all of its values are
                numbers (kind ``not_finite``).
        """
        height, width, _ = pixels.shape
        # from_pixels copies, so nothing here borrows the array's memory.
        blob = ncnn.Mat.from_pixels(
            np.ascontiguousarray(pixels), ncnn.Mat.PixelType.PIXEL_RGB, width, height
        )
        blob.substract_mean_normalize([], [1 / 255.0] * 3)
        extractor = self._net.create_extractor()
        if extractor.input(self._files.input_blob, blob) != 0:
            raise InferenceError("failed", f"The network has no input {self._files.input_blob}.")
        status, output = extractor.extract(self._files.output_blob)
        if status != 0 or output.empty():
            raise InferenceError(
                "failed", f"The network failed on a tile of {width}×{height} pixels ({status})."
            )
        # The view borrows the blob's memory, and numpy keeps the blob alive for it.
        planes: Floats = output.numpy()
        # Infinities and NaN come through to the extremes.
        if not (np.isfinite(planes.min()) and np.isfinite(planes.max())):
            raise InferenceError("not_finite", "The network returned values that are not numbers.")
        return planes

    def run_averaged(self, pixels: Pixels) -> Floats:
        """Like `run`, averaged over the eight flips and rotations of the tile."""
        total: Floats | None = None
        for turns in range(4):
            for mirrored in (False, True):
                turned = np.rot90(pixels, turns)
                planes = self.run(turned[:, ::-1] if mirrored else turned)
                back = planes[:, :, ::-1] if mirrored else planes
                back = np.rot90(back, -turns, axes=(1, 2))
                if total is None:
                    total = back.copy()
                else:
                    total += back
        assert total is not None  # noqa: S101 - the loops run
        total /= 8
        return total


def to_bytes(planes: Floats) -> Pixels:
    """Turn planes (channels, height, width) of 0…1 into interleaved bytes, rounding half up.

    That is the native programs' rounding. Done in blocks of rows that stay in the cache: 8 ns a
    pixel where whole planes take 70.
    """
    channels, height, width = planes.shape
    pixels = np.empty((height, width, channels), np.uint8)
    step = max(1, _BLOCK // width)
    block = np.empty((step, width), np.float32)
    for row in range(0, height, step):
        end = min(row + step, height)
        values = block[: end - row]
        for channel in range(channels):
            np.multiply(planes[channel, row:end], np.float32(255), out=values)
            values += np.float32(0.5)
            np.clip(values, 0, 255, out=values)
            pixels[row:end, :, channel] = values
    return pixels
