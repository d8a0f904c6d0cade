"""The process that loads networks of other families: ``python -m … PARENT_PID``.

It needs PyTorch and spandrel, which the base installation does not have. The file is read by the
same restricted reader as any other, so PyTorch never unpickles anything: spandrel gets numbers by
name, builds the network whose names they are, and PyTorch records what it computes. `pnnx_launcher`
converts the record.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from upscaled import files, serial
from upscaled.engines.engine import PADDING
from upscaled.models.conversion.confined_work import done, weights_of
from upscaled.models.conversion.converting import (
    Conversion,
    Converted,
    expected_path,
)
from upscaled.models.conversion.definition import expectations
from upscaled.models.conversion.errors import ConversionError, UnknownFamilyError
from upscaled.models.conversion.layers import FP16_LARGEST, Floats
from upscaled.models.conversion.recognition import ELSEWHERE
from upscaled.models.conversion.tensors import Weights
from upscaled.workers.server import Message, RequestRefusedError, serve

RECORD = "network.pt"
"""What is written into the work folder: the network as PyTorch recorded it."""
SHAPES = ((48, 64), (54, 82))
"""Heights and widths that the record is made and converted for: what differs between them is not
taken for constant."""
_SMALLEST_TILE = 1 + 2 * PADDING
_LARGEST_SCALE = 16


def _handle(message: Message, event: Callable[[Message], None]) -> Message:
    try:
        import_spandrel()  # before anything of the file is read
    except (ImportError, OSError, RuntimeError) as error:  # a library or a part is missing
        words = f"The packages for other families cannot be loaded: {_first_line(error)}."
        raise RequestRefusedError("conversion", words) from error
    return done(message, event, _recorded, readable=code_folders())


def code_folders() -> set[Path]:
    """Return the folders that hold the packages of the extra."""
    found = (find_spec(name) for name in ("torch", "spandrel", "pnnx"))
    return {Path(spec.origin).parent.parent for spec in found if spec and spec.origin}


def import_spandrel() -> None:
    """Import PyTorch and spandrel, without torchvision.

    Two networks of spandrel's that enlarge nothing (LaMa, RestoreFormer) use it. It must be of the
    same build as PyTorch, or importing it fails.
    """
    names = "torchvision", "torchvision.transforms", "torchvision.transforms.functional"
    stand_ins = {name: types.ModuleType(name) for name in names}
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(stand_ins[names[-1]], name, None)
    sys.modules.update(stand_ins)
    warnings.simplefilter("ignore")
    import spandrel  # noqa: F401, PLC0415


def _recorded(request: Conversion, on_step: Callable[[str], None]) -> Message:
    import torch  # noqa: PLC0415

    on_step("loading it with PyTorch")
    torch.autograd.set_grad_enabled(False)
    digest = files.sha256_of(request.source)
    weights = weights_of(request)
    descriptor = _loaded(weights, request.name)
    largest = max(float(np.abs(values).max(initial=0)) for values in weights.values())
    parameters = sum(value.size for value in weights.values())
    del weights
    network = _Network(descriptor)
    on_step("computing what it must make")
    try:
        for tile, picture in expectations(network).items():
            expected_path(request.workdir, tile).write_bytes(picture.tobytes())
        on_step("recording what it computes")
        network.record(request.workdir / RECORD)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConversionError(
            f"PyTorch cannot record this {network.architecture} network ({_first_line(error)}). "
            f"{ELSEWHERE}"
        ) from error
    made = Converted(
        digest, network.architecture, network.size, network.scale, parameters,
        fits_half=largest <= FP16_LARGEST,
    )  # fmt: skip
    return dict(serial.plain(made))


def _loaded(weights: Weights, name: str) -> Any:
    """Return spandrel's description of the network that weights are of.

    Raises:
        UnknownFamilyError: spandrel does not know it either.
        ConversionError: it is damaged, or none that enlarges colour pictures of any size.
    """
    import torch  # noqa: PLC0415
    from spandrel import (  # noqa: PLC0415
        ImageModelDescriptor,
        ModelLoader,
        UnsupportedModelError,
    )

    tensors = {key: torch.from_numpy(values.copy()) for key, values in weights.items()}
    try:
        found = ModelLoader(device="cpu").load_from_state_dict(tensors)
    except UnsupportedModelError:
        some = ", ".join(sorted(key[:60] for key in weights)[:3])
        raise UnknownFamilyError(
            f"The network is of a family that spandrel does not know either. Its first weights are "
            f"{some}."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a network's code says to shapes that do not fit
        raise ConversionError(
            f"{name} is damaged, or a variant that spandrel does not know ({_first_line(error)})."
        ) from error
    family, needs = found.architecture.name, found.size_requirements
    if not isinstance(found, ImageModelDescriptor) or found.input_channels != 3:
        raise ConversionError(
            f"The network is of the family {family} and does not take colour pictures."
        )
    if found.output_channels != 3 or not 1 <= found.scale <= _LARGEST_SCALE:
        raise ConversionError(
            f"The network is of the family {family} and does not make colour pictures of up to "
            f"{_LARGEST_SCALE} times the size."
        )
    if needs.minimum > _SMALLEST_TILE or needs.multiple_of > 1 or needs.square:
        raise ConversionError(
            f"The network is of the family {family} and takes only pictures of certain sizes, but "
            f"the engines cut tiles of any size. {ELSEWHERE}"
        )
    return found.eval()


class _Network:
    """A network in PyTorch, as `expectations` wants it.

    Args:
        descriptor: spandrel's.
    """

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor
        self.architecture = str(descriptor.architecture.name)
        self.scale = int(descriptor.scale)
        self.size = ", ".join(map(str, descriptor.tags)) or "one size"

    def layers(self) -> tuple[()]:
        """Return nothing: pnnx makes the layers."""
        return ()

    def run(self, picture: Floats) -> Floats:
        """Return the output for planes (3, height, width) of 0 to 1."""
        import torch  # noqa: PLC0415

        made = self._descriptor(torch.from_numpy(picture)[None])[0]
        return np.ascontiguousarray(made.numpy(), np.float32)

    def record(self, path: Path) -> None:
        """Write what PyTorch computes for a picture as a program for pnnx.

        Raises:
            RuntimeError: a part of it cannot be recorded.
        """
        import torch  # noqa: PLC0415
        from torch.overrides import TorchFunctionMode  # noqa: PLC0415

        descriptor = self._descriptor

        class Whole(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = descriptor.model

            def forward(self, picture: Any) -> Any:
                return descriptor._call_fn(self.model, picture)

        class Plain(TorchFunctionMode):
            """Expresses the same with operations that pnnx can translate."""

            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                kwargs = kwargs or {}
                if function is torch.repeat_interleave and kwargs.get("dim") == 1:
                    planes, times = args[0], kwargs.get("repeats")
                    if isinstance(times, int):
                        channels = range(planes.shape[1])
                        pieces = [planes[:, c : c + 1] for c in channels for _ in range(times)]
                        return torch.cat(pieces, 1)
                return function(*args, **kwargs)

        for parameter in descriptor.model.parameters():
            parameter.requires_grad_(False)
        height, width = SHAPES[0]
        picture = torch.from_numpy(
            np.random.default_rng(1).random((1, 3, height, width), np.float32)
        )
        with torch.no_grad(), Plain():
            torch.jit.trace(Whole().eval(), picture, check_trace=False).save(str(path))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")


def main() -> None:
    """Answer the one request."""
    serve(_handle, threaded=False)


if __name__ == "__main__":
    main()
