"""Reads weights from untrusted files: PyTorch's formats and safetensors, without PyTorch.

A ``.pth`` is a pickle, and a pickle is a program. The unpickler here knows the few names that a
file of plain tensors needs and refuses every other one, so nothing of the file is ever run.

Formats: the ZIP archive of ``torch.save`` since 1.6, the older stream of five pickles and raw
storages (both ``torch/serialization.py``), and safetensors (a length, a JSON header, raw data).
"""

from __future__ import annotations

import errno
import io
import json
import lzma
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.other_files import LONGEST_START, sentence_about
from upscaled.models.conversion.tensors import (
    BFLOAT16,
    LARGEST_FILE,
    MOST_TENSORS,
    Allowance,
    Weights,
    checked_shape,
    numbers_of,
    whole,
    width_of,
)
from upscaled.models.conversion.unpickler import (
    LARGEST_PICKLE,
    LegacyUnpickler,
    Storage,
    TensorUnpickler,
    next_pickle,
)
from upscaled.models.conversion.weight_sets import chosen_set

_LARGEST_HEADER = 64 << 20
_BYTE_ORDER = 16
"""Bytes of an archive's ``byteorder`` file, which says ``little`` or ``big``."""
_ENCRYPTED: Final = 1
"""The flag of a ZIP entry that needs a password."""
_ZIP_MARK: Final = b"PK\x03\x04"
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001

_SAFE_KINDS: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16,
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "<u1",
}  # fmt: skip


def read_weights(path: Path, *, name: str | None = None) -> Weights:
    """Return the tensors of a file; blocking.

    Of a file that holds several sets of weights, one is taken (`chosen_set`).

    Args:
        path: the file.
        name: what messages call it; None: its own name.

    Raises:
        ConversionError: it is none of the formats, is damaged, or holds anything but tensors.
        OSError: it can't be read.
    """
    name = path.name if name is None else name
    if path.stat().st_size > LARGEST_FILE:
        raise ConversionError(
            f"{name} has more than {LARGEST_FILE >> 20} MiB, which no upscaling network has."
        )
    try:
        document = _read(path, name)
    except ConversionError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise _damaged(name) from error
    except (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
        RuntimeError, TypeError, ValueError, lzma.LZMAError, pickle.UnpicklingError, struct.error,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise _damaged(name) from error
    found = chosen_set(document, name)
    if not found:
        raise ConversionError(f"{name} holds no weights.")
    return found


def _damaged(name: str) -> ConversionError:
    return ConversionError(f"{name} is damaged and cannot be read; download it again.")


def _read(path: Path, name: str) -> object:
    with path.open("rb") as file:
        start = file.read(LONGEST_START)
        if start[:4] == _ZIP_MARK:
            return _read_archive(path, name)
        if start[8:9] == b"{":
            return _read_safetensors(path, name)
        if start[:1] == b"\x80":
            file.seek(0)
            return _read_legacy(file)
    raise ConversionError(sentence_about(name, start))


def _read_safetensors(path: Path, name: str) -> object:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ConversionError(f"{name} is cut off: its header is longer than the file.")
        if length > _LARGEST_HEADER:
            raise ConversionError(
                f"{name} has a header of {length >> 20} MiB, which no network needs."
            )
        header = json.loads(file.read(length))
        data = memoryview(file.read())
    if not isinstance(header, dict) or len(header) > MOST_TENSORS + 1:
        raise ConversionError(f"{name} has more than {MOST_TENSORS} tensors.")
    found: dict[str, object] = {}
    places: list[tuple[int, int]] = []
    allowance = Allowance(len(data))
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        begin, end = (whole(offset) for offset in entry["data_offsets"])
        shape = checked_shape(entry["shape"])
        kind = _SAFE_KINDS.get(entry["dtype"])
        if kind is None:
            raise ConversionError(f"{name} has weights of the type {entry['dtype']!s:.20}.")
        if not begin <= end <= len(data):
            raise ConversionError(f"{name} is cut off: {key!s:.60} lies beyond its end.")
        allowance.take(math.prod(shape))
        found[key] = numbers_of(data[begin:end], kind, math.prod(shape)).reshape(shape)
        places.append((begin, end))
    if any(end > begin for (_, end), (begin, _) in pairwise(sorted(places))):
        raise ConversionError(f"{name} is damaged: two of its tensors lie in the same place.")
    return found


def _read_archive(path: Path, name: str) -> object:
    """Read what ``torch.save`` has written since PyTorch 1.6."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [one for one in names if one.count("/") == 1 and one.endswith("/data.pkl")]
        if not pickles:
            raise ConversionError(
                f"{name} is a ZIP archive without PyTorch's data.pkl. If it holds a .pth or "
                ".safetensors file, unpack it, and send that."
            )
        if len(pickles) > 1 or len(set(names)) < len(names):
            raise ConversionError(
                f"{name} is a ZIP archive that holds a file twice, which PyTorch never writes."
            )
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise ConversionError(
                f"{name} is a TorchScript program. Ask its author for the state_dict "
                "(.pth or .safetensors)."
            )
        order = f"{folder}byteorder"
        if order in names and _member(archive, order, _BYTE_ORDER, exact=False) != b"little":
            raise ConversionError(f"{name} was saved on a big-endian machine.")
        loaded: dict[str, NDArray[np.float32]] = {}
        allowance = Allowance(path.stat().st_size)

        def storage(pid: tuple[Any, ...]) -> Storage:
            kind, key, count = pid[1].kind, str(pid[2]), whole(pid[4])

            def load() -> NDArray[np.float32]:
                if key not in loaded:
                    content = _member(archive, f"{folder}data/{key}", count * width_of(kind))
                    loaded[key] = numbers_of(content, kind, count)
                return loaded[key]

            return Storage(load, allowance)

        content = _member(archive, pickles[0], LARGEST_PICKLE, exact=False)
        return TensorUnpickler(next_pickle(io.BytesIO(content)), storage).load()


def _member(archive: zipfile.ZipFile, name: str, size: int, *, exact: bool = True) -> bytes:
    """Return a file of the archive.

    Raises:
        ConversionError: it has another size than it must, or is too large.
    """
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ConversionError(f"{name} in the archive is compressed, which PyTorch never does.")
    if info.flag_bits & _ENCRYPTED:
        raise ConversionError(f"{name} in the archive is encrypted, which PyTorch never does.")
    if not exact and info.file_size > size:
        raise ConversionError(f"{name} in the archive is larger than {size} bytes.")
    if exact and info.file_size != size:
        raise ConversionError(
            f"{name} in the archive does not have the size that the file promises."
        )
    return archive.read(info)


def _read_legacy(file: io.BufferedReader) -> object:
    """Read what ``torch.save`` wrote before PyTorch 1.6: pickles, then the storages in a row."""
    content = io.BytesIO(file.read())
    allowance = Allowance(content.getbuffer().nbytes)
    views: dict[str, tuple[str, int]] = {}
    loaded: dict[str, NDArray[np.float32]] = {}

    def storage(pid: tuple[Any, ...]) -> Storage:
        key = str(pid[2])
        views[key] = (pid[1].kind, whole(pid[4]))
        return Storage(lambda: loaded[key], allowance)

    def plain() -> object:
        return TensorUnpickler(next_pickle(content), storage).load()

    if plain() != _LEGACY_MAGIC or plain() != _LEGACY_PROTOCOL:
        raise ConversionError("The file is a pickle, but not one that PyTorch wrote.")
    system = plain()
    if not isinstance(system, dict) or not system.get("little_endian", False):
        raise ConversionError("The file was saved on a big-endian machine.")
    # The tensors come before their data: a first reading finds where the data begins.
    start = content.tell()
    LegacyUnpickler(next_pickle(content), storage).load()
    keys = plain()
    if not isinstance(keys, list) or len(keys) > MOST_TENSORS:
        raise ConversionError("The file's list of storages is invalid.")
    for key in keys:
        kind, count = views[str(key)]
        stored = int.from_bytes(content.read(8), "little")
        if stored != count:
            raise ConversionError("A storage of the file does not have the promised size.")
        loaded[str(key)] = numbers_of(content.read(count * width_of(kind)), kind, count)
    content.seek(start)
    return plain()
