"""An unpickler that builds tensors and nothing else.

A pickle is a program. This one knows the few names that a file of plain tensors needs and refuses
every other one, so nothing of the file is ever run.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.tensors import BFLOAT16, Allowance, checked_shape, whole

LARGEST_PICKLE = 4 << 20
"""Bytes of a pickle of names and shapes; the weights lie outside it. Some hundred bytes a tensor:
HAT-L, one of the largest networks in use, has 500 KiB."""
_KINDS: Mapping[str, str] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<u1",
}
"""PyTorch's storage classes, and how numpy names their numbers."""


class _StorageClass(NamedTuple):
    """Stands for one of PyTorch's storage classes."""

    kind: str


class Storage(NamedTuple):
    """Numbers that tensors are views of; ``load`` returns them flat."""

    load: Callable[[], NDArray[np.float32]]
    allowance: Allowance


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, size: object, stride: object, *_: object
    ) -> NDArray[np.float32]:
        if not isinstance(storage, Storage):
            raise ConversionError("A tensor of the file has no storage.")
        shape, strides = checked_shape(size), checked_shape(stride)
        start, count = whole(offset), math.prod(shape)
        storage.allowance.take(count)
        numbers = storage.load()
        if len(strides) != len(shape):
            raise ConversionError("A tensor of the file has an invalid shape.")
        if count == 0:
            return np.zeros(shape, np.float32)
        last = start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last >= len(numbers) or count > len(numbers):
            raise ConversionError("A tensor of the file is larger than its data.")
        view = np.lib.stride_tricks.as_strided(
            numbers[start:], shape, [step * numbers.itemsize for step in strides], writeable=False
        )
        return np.ascontiguousarray(view)


class _SkipTensor:
    """Stands for the same before the data is read."""

    __slots__ = ()

    def __call__(self, *_: object) -> None:
        return None


class _RebuildParameter:
    """Stands for ``torch._utils._rebuild_parameter``."""

    __slots__ = ()

    def __call__(self, data: object, *_: object) -> object:
        return data


_ALLOWED: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "Size"): tuple,
    **{("torch", name): _StorageClass(kind) for name, kind in _KINDS.items()},
}
"""Every name that a pickle may use, and what it means here."""
_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "BINUNICODE", "SHORT_BINUNICODE",
    "BINSTRING", "SHORT_BINSTRING",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID",
})  # fmt: skip
"""What ``torch.save`` writes, under Python 2 too. The others take no part in tensors, and some fill
the memory."""


_ADVICE = (
    "it may hold a program. Ask its author for a .safetensors file, or for one that holds the "
    "state_dict only."
)


def next_pickle(file: io.BytesIO) -> bytes:
    """Return the pickle that begins here, having looked at each of its instructions.

    Raises:
        ConversionError: it is too large, or has an instruction that tensors do not need.
    """
    start = file.tell()
    window = io.BytesIO(file.read(LARGEST_PICKLE))
    try:
        for opcode, argument, _ in pickletools.genops(window):
            if opcode.name not in _OPCODES:
                raise ConversionError(
                    f"The file has the pickle instruction {opcode.name}, which weights do not "
                    f"need; {_ADVICE}"
                )
            if opcode.name == "LONG_BINPUT" and whole(argument) > LARGEST_PICKLE:
                raise ConversionError("The file is damaged: a number in its pickle is too large.")
    except ValueError as error:
        if len(window.getvalue()) == LARGEST_PICKLE:
            raise ConversionError(
                f"The file's description of its weights is larger than {LARGEST_PICKLE >> 20} MiB."
            ) from error
        raise
    file.seek(start + window.tell())
    return window.getvalue()[: window.tell()]


class TensorUnpickler(pickle.Unpickler):
    """Builds tensors, numbers, texts and containers of them, and nothing else."""

    def __init__(self, content: bytes, storage: Callable[[tuple[Any, ...]], Storage]) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the file.

        Raises:
            ConversionError: the name is not one that plain tensors need.
        """
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ConversionError(
                f"The file asks for {module!s:.60}.{name!s:.60}, which weights do not need; "
                f"{_ADVICE}"
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that the file refers to."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ConversionError("The file refers to something that is not a tensor's data.")
        if not isinstance(pid[1], _StorageClass):
            raise ConversionError("The file has weights of a type that is not known.")
        return self._storage(pid)


class LegacyUnpickler(TensorUnpickler):
    """Reads past the tensors, whose data comes later in the file."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the file; tensors are left empty."""
        found = super().find_class(module, name)
        return _SkipTensor() if isinstance(found, _RebuildTensor) else found
