"""Loads networks into a library, after comparing its output with ncnn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upscaled.engines.builtin import inspection
from upscaled.engines.builtin.compiled_networks import CompiledNetworks
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.graph import UnknownGraphError
from upscaled.engines.builtin.ncnn_network import NcnnNetwork
from upscaled.engines.builtin.network import (
    MIN_PSNR_DB,
    InferenceError,
    Network,
    Pixels,
    crop_margin,
    psnr_db,
    to_bytes,
)
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.builtin.tile_plan import TilePlan
from upscaled.engines.engine import PADDING

Identity = tuple[tuple[str, int, int], ...]
"""A network's files: path, size and modification time of each, so that a replaced file differs."""

_PROBE = (12 + 2 * PADDING, 10 + 2 * PADDING)
"""Width and height of the padded test tiles; each takes 0.3 s with x4plus."""


_BF16_MIN_PSNR_DB = 53.0
"""Least agreement of bfloat16 with ncnn on the two test tiles, which are easy: pictures with text
have 3 dB less."""
_FAST_MIN_PSNR_DB = 40.0
"""The same for callers who want it fast, see `choice.FAST_DB`."""
_MAX_CONVOLUTIONS = 300
"""bfloat16 is not tried with more convolutions than this, since each amplifies earlier errors:
x4plus has 351 and gives gradients that are 45 dB from those in 32 bits. Testing it would add 2 s to
every worker's first picture. Where calibration compared more pictures, that decides."""


class LibraryRejectedError(Exception):
    """The planned library can't run this network: plan again. The message is a sentence."""


class Loader:
    """Loads networks for one device.

    Args:
        device: a Vulkan index, or None for the CPU.
        threads: for inference altogether.
        library: the preferred library on the CPU.
        compiled: keeps networks that were compared; None: they are compared in each process.
    """

    def __init__(
        self,
        device: int | None,
        threads: int,
        library: CpuLibrary,
        compiled: CompiledNetworks | None = None,
    ) -> None:
        self._compiled = compiled or CompiledNetworks(None)
        self._device = device
        self._threads = threads
        self._library = library
        self._chosen: dict[tuple[Identity, CpuLibrary | None, bool], CpuLibrary] = {}
        self._verified: set[tuple[Identity, CpuLibrary, bool]] = set()

    def library_for(
        self, identity: Identity, measured: CpuLibrary | None = None, *, fast: bool = False
    ) -> CpuLibrary:
        """Return the library for a network, as far as known; may read its ``.param``.

        Args:
            identity: the network.
            measured: the library that was measured to be best for it; None: by the rule.
            fast: its picture may differ more than usual.
        """
        best = self._chosen.get((identity, measured, fast))
        if best is None:
            best = measured or self._library
            if (
                measured is None
                and best is CpuLibrary.OPENVINO_BF16
                and _depth(Path(identity[0][0])) > _MAX_CONVOLUTIONS
            ):
                best = best.fallback
            self._chosen[identity, measured, fast] = best
        return best

    def load(
        self,
        files: NetworkFiles,
        identity: Identity,
        plan: TilePlan,
        *,
        threads: int,
        measured: CpuLibrary | None = None,
        fast: bool = False,
    ) -> Network:
        """Load a network as planned, for ``threads`` threads a tile.

        Args:
            files: of the network.
            identity: of the network.
            plan: of the task.
            threads: that work on one tile.
            measured: see `library_for`.
            fast: see `library_for`.

        Raises:
            LibraryRejectedError: the task must be planned again, with another library.
            InferenceError: the files are no network (kind ``bad_model``).
        """
        if plan.library is CpuLibrary.NCNN:
            return NcnnNetwork(files, device=self._device, threads=threads, lean=plan.lean)
        best = self.library_for(identity, measured, fast=fast)
        if best is not plan.library:
            raise LibraryRejectedError(f"{_name(best)} is used for {files.param.name}.")
        try:
            return self._openvino(files, identity, plan.library, threads, fast=fast)
        except _RejectedError as error:
            # If precision is not the cause, 32-bit fails too.
            best = plan.library.fallback if error.by_precision else CpuLibrary.NCNN
            self._chosen[identity, measured, fast] = best
            raise LibraryRejectedError(
                f"{error} {_name(best)} is used for {files.param.name}."
            ) from None

    def _openvino(
        self,
        files: NetworkFiles,
        identity: Identity,
        library: CpuLibrary,
        threads: int,
        *,
        fast: bool,
    ) -> Network:
        try:
            from upscaled.engines.builtin.openvino_network import OpenvinoNetwork  # noqa: PLC0415 - 20 MB
        except ImportError as error:
            raise _RejectedError(f"OpenVINO can't be loaded ({error}).") from None
        bf16 = library is CpuLibrary.OPENVINO_BF16
        checked = (identity, library, fast)
        kept = self._compiled.path_of(checked, files, PADDING)
        known = checked in self._verified or (kept is not None and kept.exists())
        # Done before OpenVINO loads the network: both together may exceed the limit.
        expected = [] if known else self._expected(files)
        try:
            network = OpenvinoNetwork(
                files, cores=self._threads, threads=threads, bf16=bf16, kept=kept
            )
            if not (network.was_kept or expected or checked in self._verified):
                expected = self._expected(files)  # what was kept is damaged
            for probe, picture in expected:
                _compare(to_bytes(network.run(probe)), picture, library, fast=fast)
        except UnknownGraphError as error:
            raise _RejectedError(str(error)) from None
        except InferenceError as error:
            raise _RejectedError(str(error), by_precision=bf16) from None
        self._verified.add(checked)
        network.keep()
        return network

    def _expected(self, files: NetworkFiles) -> list[tuple[Pixels, Pixels]]:
        """Return padded test tiles and ncnn's output for them, without padding trim."""
        whole = NcnnNetwork(files, device=None, threads=self._threads, lean=True, padding=0)
        pairs = []
        for probe in (inspection.gradient(*_PROBE), textured(*_PROBE)):
            planes = whole.run(probe)
            margin = PADDING * planes.shape[-1] // probe.shape[1]
            pairs.append((probe, to_bytes(crop_margin(planes, margin))))
        return pairs


class _RejectedError(Exception):
    """Why OpenVINO can't be used; ``by_precision``: 32 bits may still work."""

    def __init__(self, message: str, *, by_precision: bool = False) -> None:
        super().__init__(message)
        self.by_precision = by_precision


def _compare(made: Pixels, expected: Pixels, library: CpuLibrary, *, fast: bool) -> None:
    """Compare a library's picture with ncnn's.

    Raises:
        _RejectedError: they differ too much.
    """
    if made.shape != expected.shape:
        raise _RejectedError(
            f"{_name(library)} returns {made.shape} values instead of {expected.shape}."
        )
    likeness, least = psnr_db(made, expected), MIN_PSNR_DB
    if library is CpuLibrary.OPENVINO_BF16:
        least = _FAST_MIN_PSNR_DB if fast else _BF16_MIN_PSNR_DB
    if likeness < least:
        raise _RejectedError(
            f"The picture by {_name(library)} differs from ncnn's ({likeness:.1f} dB).",
            by_precision=library is CpuLibrary.OPENVINO_BF16,
        )


def _depth(param: Path) -> int:
    """Return the number of convolutions; 0 if the file can't be read, which loading will report."""
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
    """Return a picture like a photo, (height, width, 3): shading, edges and fine texture."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    light = np.stack([across, down, 1 - across], axis=2)
    edges = (np.floor(5 * across + 3 * down) % 2)[:, :, None]
    texture = np.random.default_rng(1).standard_normal((height, width, 3))
    values = 40 + 140 * light + 40 * edges + 8 * texture
    pixels: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return pixels
