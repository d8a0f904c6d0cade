"""What people send in place of weights, and what helps them."""

from __future__ import annotations

import re

LONGEST_START = 512
"""Bytes from the beginning of a file that tell what it is."""

_KNOWN: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb"\s*<(?:!doctype|html|\?xml|head)", re.I),
        "is a web page, not a model. Open the address in a browser and save the file it offers.",
    ),
    (
        re.compile(rb"version https://git-lfs"),
        "is a reference of Git LFS, not the model. Type git lfs pull, or download the file.",
    ),
    (
        re.compile(rb"7767517\s"),
        "is an ncnn file and needs no import. Put it into the models folder with its .bin.",
    ),
    (
        re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf\x27\x1c|Rar!\x1a|\x28\xb5\x2f\xfd"),
        "is a packed archive. Unpack it, and send the .pth or .safetensors file that it holds.",
    ),
    (
        # Field 1 (the version of the format), then its producer, version, domain or graph.
        re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]"),
        "is an ONNX file, which cannot be converted. Send the .pth or .safetensors file of the "
        "same model: nearly all authors publish that too.",
    ),
)
_ENDINGS = {".bin": _KNOWN[2][1].replace(".bin", ".param"), ".onnx": _KNOWN[4][1]}
_ELSE = "is not a .pth, .pt or .safetensors file; send the file as it was published."


def sentence_about(name: str, start: bytes) -> str:
    """Return what to say about a file that holds no weights.

    Args:
        name: of the file.
        start: its first bytes, up to `LONGEST_START`.
    """
    if not start:
        return f"{name} is empty; download it again."
    for pattern, words in _KNOWN:
        if pattern.match(start):
            return f"{name} {words}"
    ending = re.search(r"\.[a-z]+$", name.lower())
    return f"{name} {_ENDINGS.get(ending[0], _ELSE) if ending else _ELSE}"
