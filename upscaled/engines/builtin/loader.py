"""Loading networks into the library that is to run them, once it has shown that it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upscaled.engines.builtin import inspection
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.graph import UnknownGraphError
from upscaled.engines.builtin.messages import NetworkFiles
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    LEAST_DB,
    InferenceError,
    Network,
    Pixels,
    decibels,
    to_bytes,
    without_margin,
)
from upscaled.engines.builtin.tile_plan import Plan
from upscaled.engines.engine import PADDING

Identity = tuple[tuple[str, int, int], ...]
"""A network's files: paths, sizes and times. One that was replaced is another."""

_PROBE = (12 + 2 * PADDING, 10 + 2 * PADDING)
"""Width and height of the padded tiles that both libraries enlarge: 0.3 s of x4plus each."""


_BF16_DB = 53.0
"""What a picture in bfloat16 must agree to with ncnn's. x4plus in 32 bits is 53 dB from the native
program's; as much again by bfloat16, and what is asked of both together remains: 50."""
_DEEPEST = 300
"""Convolutions beyond which bfloat16 is not tried. Each amplifies what those before it are off by:
x4plus, which has 351, makes slopes that are 45 dB from those in 32 bits. To find that out would
take 2 s of every worker's first picture."""


class UnfitError(Exception):
    """The library can't run this network; the message is a sentence. The next best will."""


class Loader:
    """Loads networks for one device.

    Args:
        device: a Vulkan index, or None for the CPU.
        threads: for inference altogether.
        library: what is to run networks on the CPU, where it can.
    """

    def __init__(self, device: int | None, threads: int, library: CpuLibrary) -> None:
        self._device = device
        self._threads = threads
        self._library = library
        self._best: dict[Identity, CpuLibrary] = {}
        self._fit: set[Identity] = set()

    def library_for(self, identity: Identity) -> CpuLibrary:
        """Return what is to run a network, by all that is known; may read its description."""
        best = self._best.get(identity)
        if best is None:
            best = self._library
            if best is CpuLibrary.OPENVINO_BF16 and _depth(Path(identity[0][0])) > _DEEPEST:
                best = best.next_best
            self._best[identity] = best
        return best

    def load(self, files: NetworkFiles, identity: Identity, plan: Plan, *, threads: int) -> Network:
        """Load a network as planned, to be run by ``threads`` a tile.

        Raises:
            UnfitError: it has to be planned again.
            InferenceError: the files are no network (kind ``bad_model``).
        """
        if plan.library is CpuLibrary.NCNN:
            return NcnnNetwork(files, device=self._device, threads=threads, lean=plan.lean)
        best = self.library_for(identity)
        if best is not plan.library:
            raise UnfitError(f"{_name(best)} is used for {files.param.name}.")
        try:
            return self._openvino(files, identity, plan.library, threads)
        except _RefusedError as error:
            # What is no matter of bits is none in 32 either.
            best = plan.library.next_best if error.by_its_bits else CpuLibrary.NCNN
            self._best[identity] = best
            raise UnfitError(f"{error} {_name(best)} is used for {files.param.name}.") from None

    def _openvino(
        self, files: NetworkFiles, identity: Identity, library: CpuLibrary, threads: int
    ) -> Network:
        try:
            from upscaled.engines.builtin.openvino_network import OpenvinoNetwork  # noqa: PLC0415 - 20 MB
        except ImportError as error:
            raise _RefusedError(f"OpenVINO can't be loaded ({error}).") from None
        # Before the other is loaded: both together might be more than the limit.
        expected = [] if identity in self._fit else self._expected(files)
        bf16 = library is CpuLibrary.OPENVINO_BF16
        try:
            network = OpenvinoNetwork(files, cores=self._threads, threads=threads, bf16=bf16)
            for probe, picture in expected:
                _compare(to_bytes(network.run(probe)), picture, library)
        except UnknownGraphError as error:
            raise _RefusedError(str(error)) from None
        except InferenceError as error:
            raise _RefusedError(str(error), by_its_bits=bf16) from None
        self._fit.add(identity)
        return network

    def _expected(self, files: NetworkFiles) -> list[tuple[Pixels, Pixels]]:
        """Return padded tiles, and ncnn's pictures by the network as the files have it."""
        whole = NcnnNetwork(files, device=None, threads=self._threads, lean=True, padding=0)
        pairs = []
        for probe in (inspection.slopes(*_PROBE), textured(*_PROBE)):
            planes = whole.run(probe)
            margin = PADDING * planes.shape[-1] // probe.shape[1]
            pairs.append((probe, to_bytes(without_margin(planes, margin))))
        return pairs


class _RefusedError(Exception):
    """What `UnfitError` says, but for what is used then; ``by_its_bits``: 32 might do."""

    def __init__(self, message: str, *, by_its_bits: bool = False) -> None:
        super().__init__(message)
        self.by_its_bits = by_its_bits


def _compare(made: Pixels, expected: Pixels, library: CpuLibrary) -> None:
    """Refuse a picture that is not the same as ncnn's.

    Raises:
        _RefusedError: it differs.
    """
    if made.shape != expected.shape:
        raise _RefusedError(f"{_name(library)} makes {made.shape} values.")
    likeness = decibels(made, expected)
    if likeness < (_BF16_DB if library is CpuLibrary.OPENVINO_BF16 else LEAST_DB):
        raise _RefusedError(
            f"The picture by {_name(library)} differs from ncnn's ({likeness:.1f} dB).",
            by_its_bits=library is CpuLibrary.OPENVINO_BF16,
        )


def _depth(param: Path) -> int:
    """Return the number of a network's convolutions; 0 if it can't be read: loading will tell."""
    try:
        lines = param.read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0
    return sum(line.startswith("Convolution ") for line in lines)


def _name(library: CpuLibrary) -> str:
    return {
        CpuLibrary.NCNN: "ncnn",
        CpuLibrary.OPENVINO: "OpenVINO in 32 bits",
        CpuLibrary.OPENVINO_BF16: "OpenVINO in bfloat16",
    }[library]


def textured(width: int, height: int) -> Pixels:
    """Return a picture with what photos have: light and shade, edges, fine texture."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    light = np.stack([across, down, 1 - across], axis=2)
    edges = (np.floor(5 * across + 3 * down) % 2)[:, :, None]
    texture = np.random.default_rng(1).standard_normal((height, width, 3))
    values = 40 + 140 * light + 40 * edges + 8 * texture
    pixels: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return pixels
