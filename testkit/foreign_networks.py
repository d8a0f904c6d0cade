"""Small networks of seeded random weights, of families that only spandrel knows, as PyTorch saves.

``python -m testkit.foreign_networks FOLDER`` writes them. It needs PyTorch and spandrel, which the
tests' environment does not have; `made` runs it with those of ``.tools/import``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from testkit import parts
from testkit.paths import ROOT


def _family(module: str, name: str, **values: Any) -> Callable[[], Any]:
    return lambda: getattr(import_module(f"spandrel.architectures.{module}"), name)(**values)


_WINDOWS = {"img_size": 16, "num_heads": [2], "upscale": 2}
NETWORKS: Mapping[str, Callable[[], Any]] = {
    "RealPLKSR": _family("PLKSR", "RealPLKSR", dim=16, n_blocks=2, upscaling_factor=4),
    "PLKSR": _family("PLKSR", "PLKSR", dim=16, n_blocks=2, upscaling_factor=2),
    "MoSR": _family("MoSR", "MoSR", n_block=2, dim=16, upscale=2),
    "SwiftSRGAN": _family(
        "SwiftSRGAN", "SwiftSRGAN", num_channels=16, num_blocks=2, upscale_factor=2
    ),
    "RCAN": _family(
        "RCAN", "RCAN", scale=3, n_resgroups=2, n_resblocks=2, n_feats=16, reduction=4
    ),
    "DnCNN": _family("DnCNN", "DnCNN", in_nc=3, out_nc=3, nc=64, nb=17, act_mode="R"),
    "DySample": _family(
        "PLKSR", "RealPLKSR", dim=16, n_blocks=1, upscaling_factor=2, dysample=True
    ),
    "MoESR": _family("MoESR", "MoESR", n_blocks=1, n_block=1, dim=16, scale=2),
    "SAFMN": _family("SAFMN", "SAFMN", dim=16, n_blocks=1, upscaling_factor=2),
    "SwinIR": _family(
        "SwinIR", "SwinIR", embed_dim=12, depths=[2], window_size=8, upsampler="pixelshuffle",
        **_WINDOWS,
    ),
    "HAT": _family(
        "HAT", "HAT", embed_dim=24, depths=[2], window_size=8, upsampler="pixelshuffle",
        compress_ratio=3, squeeze_factor=6, **_WINDOWS,
    ),
    "DAT": _family("DAT", "DAT", embed_dim=32, depth=[2], split_size=[8, 8], **_WINDOWS),
    "DRCT": _family(
        "DRCT", "DRCT", embed_dim=24, depths=(2,), window_size=8, gc=8, upsampler="pixelshuffle",
        **_WINDOWS,
    ),
    "GreyDnCNN": _family("DnCNN", "DnCNN", in_nc=1, out_nc=1, nc=64, nb=17, act_mode="R"),
}  # fmt: skip


def made(folder: Path) -> Path:
    """Write all networks into ``folder``, ``NAME.pth`` each, and return it."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "testkit.foreign_networks", str(folder)],
        env={**kept, "PYTHONPATH": str(parts.import_packages())}, cwd=ROOT, check=True,
    )  # fmt: skip
    return folder


def main() -> None:
    """Write them."""
    from upscaled.models.conversion.spandrel_worker import import_spandrel

    import_spandrel()
    import torch

    for name, make in NETWORKS.items():
        torch.manual_seed(1)
        torch.save(make().state_dict(), Path(sys.argv[1]) / f"{name}.pth")


if __name__ == "__main__":
    main()
