"""Files of weights as training programs publish them, written without PyTorch.

`state_dict` makes seeded random weights of each family; `pth`, `legacy_pth` and `safetensors`
write them as files.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.builtin.graph import read_graph

Tensors = Mapping[str, NDArray[np.float32]]


class _Made(dict[str, NDArray[np.float32]]):
    """Weights under construction."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)

    def convolution(
        self, name: str, out: int, channels: int, side: int = 3, *, gain: float = 0.7,
        bias: bool = True,
    ) -> None:  # fmt: skip
        """Add a kernel and a bias that keep values at about their size."""
        spread = gain / np.sqrt(channels * side**2)
        kernel = self.random.normal(0, spread, (out, channels, side, side))
        self[f"{name}.weight"] = kernel.astype(np.float32)
        if bias:
            self[f"{name}.bias"] = self.random.normal(0, 0.02, out).astype(np.float32)


def esrgan(
    style: str,
    *,
    features: int = 8,
    blocks: int = 1,
    growth: int = 32,
    ups: int = 2,
    unshuffle: int = 1,
    plus: bool = False,
    seed: int = 1,
) -> Tensors:
    """Return the weights of an ESRGAN in the spelling ``model``, ``RRDB_trunk`` or ``body``."""
    made = _Made(seed)
    end = ".0" if style == "model" else ""
    root, dense = {
        "model": ("model.1.sub", "RDB"), "RRDB_trunk": ("RRDB_trunk", "RDB"),
        "body": ("body", "rdb"),
    }[style]  # fmt: skip
    names = {
        "model": ["model.0", f"model.1.sub.{blocks}"],
        "RRDB_trunk": ["conv_first", "trunk_conv"],
        "body": ["conv_first", "conv_body"],
    }[style]
    made.convolution(names[0], features, 3 * unshuffle**2)
    for block in range(blocks):
        for part in (1, 2, 3):
            for number in range(1, 6):
                made.convolution(
                    f"{root}.{block}.{dense}{part}.conv{number}{end}",
                    features if number == 5 else growth,
                    features + (number - 1) * growth,
                )
            if plus:
                name = f"{root}.{block}.{dense}{part}.conv1x1"
                made.convolution(name, growth, features, 1, bias=False)
    made.convolution(names[1], features, features)
    for up in range(ups):
        name = {
            "model": f"model.{3 + 3 * up}", "RRDB_trunk": f"upconv{up + 1}",
            "body": f"conv_up{up + 1}",
        }[style]  # fmt: skip
        made.convolution(name, features, features)
    first_after = 2 + 3 * ups
    high, last = {
        "model": (f"model.{first_after}", f"model.{first_after + 2}"),
        "RRDB_trunk": ("HRconv", "conv_last"), "body": ("conv_hr", "conv_last"),
    }[style]  # fmt: skip
    made.convolution(high, features, features)
    made.convolution(last, 3, features)
    return dict(made)


def compact(
    activation: str, *, features: int = 8, convolutions: int = 3, scale: int = 2, seed: int = 1
) -> Tensors:
    """Return the weights of a Compact network; only ``prelu`` has any of its own."""
    made = _Made(seed)
    for number in range(convolutions + 1):
        made.convolution(f"body.{2 * number}", features, 3 if number == 0 else features, gain=1.0)
        if activation == "prelu":
            slopes = made.random.uniform(0.05, 0.3, features)
            made[f"body.{2 * number + 1}.weight"] = slopes.astype(np.float32)
    made.convolution(f"body.{2 * (convolutions + 1)}", 3 * scale**2, features, gain=0.3)
    return dict(made)


def span(*, features: int = 8, scale: int = 2, norm: bool = True, seed: int = 1) -> Tensors:
    """Return the weights of a SPAN as it is trained."""
    made = _Made(seed)

    def chain(name: str, out: int, channels: int, gain: float = 0.7) -> None:
        made.convolution(f"{name}.sk", out, channels, 1, gain=gain)
        made.convolution(f"{name}.conv.0", 2 * channels, channels, 1, gain=gain)
        made.convolution(f"{name}.conv.1", 2 * out, 2 * channels)
        made.convolution(f"{name}.conv.2", out, 2 * out, 1)
        # What the training program stored last; a converter must not use it.
        made.convolution(f"{name}.eval_conv", out, channels)

    chain("conv_1", features, 3, 0.02 if norm else 1.0)
    for block in range(1, 7):
        for part in (1, 2, 3):
            chain(f"block_{block}.c{part}_r", features, features)
    chain("conv_2", features, features)
    made.convolution("conv_cat", features, 4 * features, 1)
    made.convolution("upsampler.0", 3 * scale**2, features)
    if not norm:
        made["no_norm"] = np.zeros(1, np.float32)
    return dict(made)


def of_official(param: Path, weights: Path, style: str) -> Tensors:
    """Return the weights of an official pair as the training program published them.

    Args:
        param: of an official network.
        weights: its ``.bin``.
        style: ``compact``, or a spelling of ESRGAN.
    """
    layers = [layer for layer in read_graph(param, weights) if layer.weights]
    if style == "compact":
        named = {}
        for number, layer in enumerate(layers):
            named[f"body.{number}.weight"] = layer.weights[0]
            if layer.kind == "Convolution":
                named[f"body.{number}.bias"] = layer.weights[1]
        return named
    blocks = (len(layers) - 6) // 15
    names = [
        name.removesuffix(".weight")
        for name in esrgan(style, blocks=blocks, features=1, growth=1)
        if name.endswith(".weight")
    ]
    return {
        key: values
        for name, layer in zip(names, layers, strict=True)
        for key, values in zip((f"{name}.weight", f"{name}.bias"), layer.weights, strict=True)
    }


# --- files ----------------------------------------------------------------------------------------

_CLASSES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "bfloat16": "BFloat16Storage"}
_EMPTY = b"ccollections\nOrderedDict\n)R"


def stored(values: NDArray[np.float32], kind: str) -> bytes:
    """Return numbers as ``<f4``, ``<f2`` or ``bfloat16``, which keeps the upper half."""
    if kind == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype(kind).tobytes()


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _whole(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tensor(key: int, values: NDArray[np.float32], kind: str, *, legacy: bool) -> bytes:
    storage = b"".join(
        [
            b"(", _text("storage"), f"ctorch\n{_CLASSES[kind]}\n".encode(), _text(str(key)),
            _text("cpu"), _whole(values.size), b"N" if legacy else b"", b"tQ",
        ]
    )  # fmt: skip
    shape = b"(" + b"".join(map(_whole, values.shape)) + b"t"
    steps = [int(np.prod(values.shape[axis + 1 :])) for axis in range(values.ndim)]
    strides = b"(" + b"".join(map(_whole, steps)) + b"t"
    return b"".join(
        [b"ctorch._utils\n_rebuild_tensor_v2\n", b"(", storage, _whole(0), shape, strides,
         b"\x89", _EMPTY, b"tR"]
    )  # fmt: skip


def pickled(tensors: Tensors, kind: str = "<f4", *, within: str | None = None,
            legacy: bool = False) -> bytes:  # fmt: skip
    """Return the pickle of a state_dict, by itself or under a key of a dictionary."""
    items = b"".join(
        _text(name) + _tensor(key, values, kind, legacy=legacy)
        for key, (name, values) in enumerate(tensors.items())
    )
    document = _EMPTY + b"(" + items + b"u"
    if within is not None:
        document = b"}(" + _text("iter") + _whole(7) + _text(within) + document + b"u"
    return b"\x80\x02" + document + b"."


def pth_of_sets(sets: Mapping[str, Tensors]) -> bytes:
    """Return a file with several sets of weights, each under a key of a dictionary."""
    items = b""
    content: dict[str, bytes] = {}
    for within, tensors in sets.items():
        items += _text(within) + _EMPTY + b"("
        for name, values in tensors.items():
            items += _text(name) + _tensor(len(content), values, "<f4", legacy=False)
            content[str(len(content))] = stored(values, "<f4")
        items += b"u"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + items + b"u.")
        for key, data in content.items():
            archive.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def pth(tensors: Tensors, kind: str = "<f4", *, within: str | None = None) -> bytes:
    """Return a file as ``torch.save`` writes it since PyTorch 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(tensors, kind, within=within))
        for key, values in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", stored(values, kind))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def legacy_pth(tensors: Tensors, kind: str = "<f4") -> bytes:
    """Return a file as ``torch.save`` wrote it before."""
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    protocol = b"\x80\x02" + _whole(1001) + b"."
    system = b"\x80\x02}(" + _text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + b"".join(_text(str(key)) for key in range(len(tensors))) + b"e."
    data = b"".join(
        struct.pack("<q", values.size) + stored(values, kind) for values in tensors.values()
    )
    return magic + protocol + system + pickled(tensors, kind, legacy=True) + keys + data


def safetensors(tensors: Tensors, kind: str = "<f4") -> bytes:
    """Return a safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts, offset = [], 0
    for name, values in tensors.items():
        content = stored(values, kind)
        dtype = {"<f4": "F32", "<f2": "F16", "bfloat16": "BF16"}[kind]
        header[name] = {
            "dtype": dtype, "shape": list(values.shape),
            "data_offsets": [offset, offset + len(content)],
        }  # fmt: skip
        parts.append(content)
        offset += len(content)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
