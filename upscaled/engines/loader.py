"""Loading networks into the library that is to run them, once it has shown that it can."""

from __future__ import annotations

from upscaled.engines import inspection
from upscaled.engines.cpu_library import CpuLibrary
from upscaled.engines.graph import UnknownGraphError
from upscaled.engines.inference import (
    LEAST_DB,
    InferenceError,
    Network,
    Pixels,
    decibels,
    to_bytes,
    without_margin,
)
from upscaled.engines.messages import NetworkFiles
from upscaled.engines.ncnn_network import NcnnNetwork
from upscaled.engines.plan import Plan
from upscaled.engines.protocol import PADDING

Identity = tuple[tuple[str, int, int], ...]
"""A network's files: paths, sizes and times. One that was replaced is another."""

_PROBE = (4 + 2 * PADDING, 2 + 2 * PADDING)
"""Width and height of the padded tile that both libraries enlarge: 0.3 s of x4plus each."""


class UnfitError(Exception):
    """The library can't run this network; the message is a sentence. ncnn will run it."""


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
        self._fit: dict[Identity, bool] = {}

    def library_for(self, identity: Identity) -> CpuLibrary:
        """Return what is to run a network, by all that is known."""
        return self._library if self._fit.get(identity, True) else CpuLibrary.NCNN

    def load(self, files: NetworkFiles, identity: Identity, plan: Plan, *, threads: int) -> Network:
        """Load a network as planned, to be run by ``threads`` a tile.

        Raises:
            UnfitError: it has to be planned again.
            InferenceError: the files are no network (kind ``bad_model``).
        """
        if plan.library is CpuLibrary.NCNN:
            return NcnnNetwork(files, device=self._device, threads=threads, lean=plan.lean)
        try:
            if self.library_for(identity) is not plan.library:
                raise UnfitError(f"ncnn is used for {files.param.name}.")
            return self._openvino(files, identity, threads)
        except UnfitError:
            self._fit[identity] = False
            raise

    def _openvino(self, files: NetworkFiles, identity: Identity, threads: int) -> Network:
        try:
            from upscaled.engines.openvino_network import OpenvinoNetwork  # noqa: PLC0415 - 20 MB
        except ImportError as error:
            raise UnfitError(f"OpenVINO can't be loaded ({error}); ncnn is used.") from None
        probe = inspection.slopes(*_PROBE)
        # Before the other is loaded: both together might be more than the limit.
        expected = None if identity in self._fit else self._expected(files, probe)
        try:
            network = OpenvinoNetwork(files, cores=self._threads, threads=threads)
            if expected is not None:
                _compare(to_bytes(network.run(probe)), expected, files.param.name)
        except (UnknownGraphError, InferenceError) as error:
            raise UnfitError(f"{error} ncnn is used for {files.param.name}.") from None
        self._fit[identity] = True
        return network

    def _expected(self, files: NetworkFiles, probe: Pixels) -> Pixels:
        """Return ncnn's picture by the network as the files have it, nothing left out."""
        whole = NcnnNetwork(files, device=None, threads=self._threads, lean=True, padding=0)
        planes = whole.run(probe)
        return to_bytes(without_margin(planes, PADDING * planes.shape[-1] // probe.shape[1]))


def _compare(made: Pixels, expected: Pixels, name: str) -> None:
    """Refuse a picture that is not the same as ncnn's.

    Raises:
        UnfitError: it differs.
    """
    if made.shape != expected.shape:
        raise UnfitError(f"OpenVINO makes {made.shape} values of {name}; ncnn is used for it.")
    likeness = decibels(made, expected)
    if likeness < LEAST_DB:
        raise UnfitError(
            f"OpenVINO's picture of {name} differs from ncnn's ({likeness:.1f} dB); ncnn is used "
            "for it."
        )
