"""Reads weights from untrusted files: PyTorch's formats and safetensors, without PyTorch.

A ``.pth`` is a pickle, and a pickle is a program. The unpickler here knows the few names that a
file of plain tensors needs and refuses every other one, so nothing of the file is ever run.

Formats: the ZIP archive of ``torch.save`` since 1.6, the older stream of five pickles and raw
storages (both ``torch/serialization.py``), and safetensors (a length, a JSON header, raw data).
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upscaled.models.conversion.errors import ConversionError

Weights = Mapping[str, NDArray[np.float32]]
"""Tensors by key, as 32-bit floats in row-major order."""

LARGEST_FILE = 2 << 30
"""Bytes of the largest file that is read; the largest RRDB in use has 67 MB, HAT-L 165 MB."""
_LARGEST_PICKLE = 4 << 20
"""Bytes of a pickle of names and shapes; the weights lie outside it. Some hundred bytes a tensor:
HAT-L, one of the largest networks in use, has 500 KiB."""
_LARGEST_HEADER = 64 << 20
_MOST_TENSORS = 100_000
_MOST_DIMENSIONS = 8
_ZIP_MARK: Final = b"PK\x03\x04"
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001

_BFLOAT16 = "bfloat16"
_KINDS: Mapping[str, str] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<u1",
}
"""PyTorch's storage classes, and how numpy names their numbers."""
_SAFE_KINDS: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": _BFLOAT16,
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "<u1",
}  # fmt: skip


def read_weights(path: Path) -> Weights:
    """Return the tensors of a file; blocking.

    Of a file that holds several sets of weights, the averaged one (``params_ema``) is taken.

    Raises:
        ConversionError: it is none of the formats, is damaged, or holds anything but tensors.
        OSError: it can't be read.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ConversionError(
            f"{path.name} has more than {LARGEST_FILE >> 20} MiB, which no upscaling network has."
        )
    try:
        document = _read(path)
    except ConversionError:
        raise
    except (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
        NotImplementedError, RecursionError, TypeError, ValueError, pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise ConversionError(f"{path.name} is damaged and cannot be read ({error}).") from error
    found = _tensors(document, path.name)
    if not found:
        raise ConversionError(f"{path.name} holds no weights.")
    return found


def _read(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(9)
        if start[:4] == _ZIP_MARK:
            return _read_archive(path)
        if start[8:9] == b"{":
            return _read_safetensors(path)
        if start[:1] == b"\x80":
            file.seek(0)
            return _read_legacy(file)
    raise ConversionError(
        f"{path.name} is no .pth, .pt or .safetensors file; send the file as it was published."
    )


# --- safetensors --------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> object:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if length > min(_LARGEST_HEADER, len(content) - 8):
        raise ConversionError(f"{path.name} is cut off: its header is longer than the file.")
    header = json.loads(content[8 : 8 + length])
    data = memoryview(content)[8 + length :]
    found: dict[str, object] = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        begin, end = (int(offset) for offset in entry["data_offsets"])
        shape = _checked_shape(entry["shape"])
        kind = _SAFE_KINDS.get(entry["dtype"])
        if kind is None:
            raise ConversionError(f"{path.name} has weights of the type {entry['dtype']!s:.20}.")
        if not 0 <= begin <= end <= len(data):
            raise ConversionError(f"{path.name} is cut off: {key!s:.60} lies beyond its end.")
        found[key] = _numbers(data[begin:end], kind, math.prod(shape)).reshape(shape)
    return found


# --- pickles ------------------------------------------------------------------------------------


# A pickle may call BUILD on whatever it was given, which sets attributes. So what it is given has
# none that can be set: named tuples, and callables without a __dict__.


class _StorageClass(NamedTuple):
    """Stands for one of PyTorch's storage classes."""

    kind: str


class _Storage(NamedTuple):
    """Numbers that tensors are views of; ``load`` returns them flat."""

    load: Callable[[], NDArray[np.float32]]


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, size: object, stride: object, *_: object
    ) -> NDArray[np.float32]:
        if not isinstance(storage, _Storage):
            raise ConversionError("A tensor of the file has no storage.")
        shape, strides = _checked_shape(size), _checked_shape(stride)
        start, count = _whole(offset), math.prod(shape)
        numbers = storage.load()
        if len(strides) != len(shape):
            raise ConversionError("A tensor of the file has a shape that makes no sense.")
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
    """Stands for the same where the data is not there yet."""

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
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID",
})  # fmt: skip
"""What ``torch.save`` writes. The others take no part in tensors, and some fill the memory."""


def _next_pickle(file: io.BytesIO) -> bytes:
    """Return the pickle that begins here, having looked at each of its instructions.

    Raises:
        ConversionError: it is too large, or has an instruction that tensors do not need.
    """
    start = file.tell()
    window = io.BytesIO(file.read(_LARGEST_PICKLE))
    try:
        for opcode, argument, _ in pickletools.genops(window):
            if opcode.name not in _OPCODES:
                raise ConversionError(
                    f"The file has the pickle instruction {opcode.name}, which weights do not need."
                )
            if opcode.name == "LONG_BINPUT" and _whole(argument) > _LARGEST_PICKLE:
                raise ConversionError("The file is damaged: a number in its pickle is too large.")
    except ValueError as error:
        if len(window.getvalue()) == _LARGEST_PICKLE:
            raise ConversionError(
                f"The file's description of its weights is larger than {_LARGEST_PICKLE >> 20} MiB."
            ) from error
        raise
    file.seek(start + window.tell())
    return window.getvalue()[: window.tell()]


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors, numbers, texts and containers of them, and nothing else."""

    def __init__(self, content: bytes, storage: Callable[[tuple[Any, ...]], _Storage]) -> None:
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
                f"The file asks for {module!s:.60}.{name!s:.60}, which weights do not need; it "
                "may hold a program. Ask its author for a .safetensors file, or for one that holds "
                "the state_dict only."
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that the file refers to."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ConversionError("The file refers to something that is not a tensor's data.")
        if not isinstance(pid[1], _StorageClass):
            raise ConversionError("The file has weights of a type that is not known.")
        return self._storage(pid)


def _read_archive(path: Path) -> object:
    """Read what ``torch.save`` has written since PyTorch 1.6."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ConversionError(f"{path.name} is a ZIP archive without PyTorch's data.pkl.")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise ConversionError(
                f"{path.name} is a TorchScript program. Ask its author for the state_dict "
                "(.pth or .safetensors)."
            )
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ConversionError(f"{path.name} was saved on a big-endian machine.")
        loaded: dict[str, NDArray[np.float32]] = {}

        def storage(pid: tuple[Any, ...]) -> _Storage:
            kind, key, count = pid[1].kind, str(pid[2]), _whole(pid[4])

            def load() -> NDArray[np.float32]:
                if key not in loaded:
                    content = _member(archive, f"{folder}data/{key}", count * _width(kind))
                    loaded[key] = _numbers(content, kind, count)
                return loaded[key]

            return _Storage(load)

        content = _member(archive, pickles[0], _LARGEST_PICKLE, exact=False)
        return _TensorUnpickler(_next_pickle(io.BytesIO(content)), storage).load()


def _member(archive: zipfile.ZipFile, name: str, size: int, *, exact: bool = True) -> bytes:
    """Return a file of the archive.

    Raises:
        ConversionError: it has another size than it must, or is too large.
    """
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ConversionError(f"{name} in the archive is compressed, which PyTorch never does.")
    if not exact and info.file_size > size:
        raise ConversionError(f"{name} in the archive is larger than {size >> 20} MiB.")
    if exact and info.file_size != size:
        raise ConversionError(f"{name} in the archive has not the size that the file promises.")
    return archive.read(info)


def _read_legacy(file: io.BufferedReader) -> object:
    """Read what ``torch.save`` wrote before PyTorch 1.6: pickles, then the storages in a row."""
    content = io.BytesIO(file.read())
    views: dict[str, tuple[str, int]] = {}
    loaded: dict[str, NDArray[np.float32]] = {}

    def storage(pid: tuple[Any, ...]) -> _Storage:
        key = str(pid[2])
        views[key] = (pid[1].kind, _whole(pid[4]))
        return _Storage(lambda: loaded[key])

    def plain() -> object:
        return _TensorUnpickler(_next_pickle(content), storage).load()

    if plain() != _LEGACY_MAGIC or plain() != _LEGACY_PROTOCOL:
        raise ConversionError("The file is a pickle, but not one that PyTorch wrote.")
    system = plain()
    if not isinstance(system, dict) or not system.get("little_endian", False):
        raise ConversionError("The file was saved on a big-endian machine.")
    # The tensors come before their data: a first reading finds where the data begins.
    start = content.tell()
    _LegacyUnpickler(_next_pickle(content), storage).load()
    keys = plain()
    if not isinstance(keys, list) or len(keys) > _MOST_TENSORS:
        raise ConversionError("The file's list of storages makes no sense.")
    for key in keys:
        kind, count = views[str(key)]
        stored = int.from_bytes(content.read(8), "little")
        if stored != count:
            raise ConversionError("A storage of the file has not the size that was promised.")
        loaded[str(key)] = _numbers(content.read(count * _width(kind)), kind, count)
    content.seek(start)
    return plain()


class _LegacyUnpickler(_TensorUnpickler):
    """Reads past the tensors, whose data comes later in the file."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the file; tensors are left empty."""
        found = super().find_class(module, name)
        return _SkipTensor() if isinstance(found, _RebuildTensor) else found


# --- what both have in common -------------------------------------------------------------------


def _width(kind: str) -> int:
    return 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize


def _numbers(content: bytes | memoryview, kind: str, count: int) -> NDArray[np.float32]:
    """Return ``count`` numbers as 32-bit floats.

    Raises:
        ConversionError: the content has not their length.
    """
    if len(content) != count * _width(kind):
        raise ConversionError("The file is cut off: some of its weights are not there.")
    if kind == _BFLOAT16:  # the upper half of a 32-bit float
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, kind).astype(np.float32)


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= LARGEST_FILE:
        raise ConversionError("The file holds a size that makes no sense.")
    return value


def _checked_shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_DIMENSIONS:
        raise ConversionError("The file holds a tensor whose shape makes no sense.")
    sizes = tuple(_whole(size) for size in shape)
    if math.prod(sizes) > LARGEST_FILE:
        raise ConversionError("The file holds a tensor that is too large.")
    return sizes


_SETS = (
    "params_ema", "params-ema", "ema", "params", "state_dict", "model_state_dict", "model",
    "net", "netG", "generator", "g_ema", "weights",
)  # fmt: skip
"""Keys under which training programs keep a set of weights, the best first."""
_PREFIXES = ("module.", "netG.", "generator.", "net_g.", "model_ema.", "params_ema.", "params.")


def _tensors(document: object, name: str) -> Weights:
    """Return the set of weights that a document holds, without its training program's prefix."""
    for _ in range(4):
        if not isinstance(document, dict):
            raise ConversionError(f"{name} holds no state_dict but {type(document).__name__}.")
        if any(isinstance(value, np.ndarray) for value in document.values()):
            break
        inner = next((document[key] for key in _SETS if isinstance(document.get(key), dict)), None)
        if inner is None:
            break
        document = inner
    assert isinstance(document, dict)  # noqa: S101 - the loop has made sure
    found = {str(key): value for key, value in document.items() if isinstance(value, np.ndarray)}
    if len(found) > _MOST_TENSORS:
        raise ConversionError(f"{name} has more than {_MOST_TENSORS} tensors.")
    for prefix in _PREFIXES:
        if found and all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    for key, value in found.items():
        if not np.isfinite(value).all():
            raise ConversionError(
                f"{name} is damaged: {key:.60} holds numbers that are not finite."
            )
    return found
