"""The networks for conversion tests, and PyTorch's output for each.

``python -m testkit.network_grid`` writes PyTorch's outputs anew, to ``tests/data``. It needs the
packages torch and spandrel, which the tests do not: they compare with the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testkit import checkpoints
from testkit.checkpoints import Tensors
from testkit.paths import DATA

OUTPUTS = DATA / "pytorch-outputs.npz"


@dataclass(frozen=True)
class Case:
    """A network of seeded random weights."""

    name: str
    tensors: Tensors
    architecture: str
    scale: int
    activation: str | None = None
    in_pytorch: bool = True
    """Whether the package that has these networks in PyTorch has this one."""


def cases() -> Iterator[Case]:
    """Yield every network of the grid."""
    for style in ("model", "RRDB_trunk", "body"):
        for ups, unshuffle in ((0, 1), (1, 1), (2, 1), (3, 1), (2, 2), (2, 4)):
            tensors = checkpoints.esrgan(style, ups=ups, unshuffle=unshuffle)
            scale = 2**ups // unshuffle
            yield Case(f"esrgan-{style}-{ups}-{unshuffle}", tensors, "ESRGAN", scale)
    for blocks, features, growth in ((2, 8, 32), (3, 12, 32), (1, 16, 8), (3, 4, 6)):
        tensors = checkpoints.esrgan("body", blocks=blocks, features=features, growth=growth, ups=1)
        name = f"esrgan-{blocks}-{features}-{growth}"
        yield Case(name, tensors, "ESRGAN", 2, in_pytorch=growth == 32)
    yield Case("esrgan-plus", checkpoints.esrgan("model", plus=True, ups=1), "ESRGAN", 2)
    for activation in ("prelu", "relu", "leakyrelu"):
        for scale in (1, 2, 3, 4):
            tensors = checkpoints.compact(activation, scale=scale)
            named = None if activation == "prelu" else activation
            yield Case(f"compact-{activation}-{scale}", tensors, "Compact", scale, named)
    for convolutions, features in ((1, 4), (7, 12)):
        tensors = checkpoints.compact("prelu", convolutions=convolutions, features=features)
        yield Case(f"compact-{convolutions}-{features}", tensors, "Compact", 2)
    for scale in (2, 3, 4):
        for norm in (True, False):
            tensors = checkpoints.span(scale=scale, norm=norm)
            yield Case(f"span-{scale}-{'norm' if norm else 'plain'}", tensors, "SPAN", scale)


def picture() -> NDArray[np.float32]:
    """Return the input: planes (3, 6, 7) of 0 to 1."""
    return np.random.default_rng(2).random((3, 6, 7), np.float32)


def main() -> None:
    """Write what PyTorch computes."""
    import torch
    from spandrel import ModelLoader
    from spandrel.architectures.Compact import Compact

    outputs = {}
    for case in cases():
        if not case.in_pytorch:
            continue
        weights = {name: torch.from_numpy(values.copy()) for name, values in case.tensors.items()}
        if case.activation is None:
            model = ModelLoader().load_from_state_dict(weights).model
        else:
            features = case.tensors["body.0.weight"].shape[0]
            count = sum(name.endswith(".weight") for name in case.tensors) - 2
            model = Compact(
                num_feat=features, num_conv=count, upscale=case.scale, act_type=case.activation
            )
            model.load_state_dict(weights)
        with torch.no_grad():
            made = model.eval()(torch.from_numpy(picture())[None])[0].numpy()
        outputs[case.name] = made.astype(np.float32)
    np.savez_compressed(OUTPUTS, **outputs)
    sys.stdout.write(f"{len(outputs)} outputs in {OUTPUTS.name}, torch {torch.__version__}\n")


if __name__ == "__main__":
    main()
