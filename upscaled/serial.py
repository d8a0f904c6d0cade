"""Dataclasses as JSON and back: records on disk, messages to workers, checkpoints.

Fields that a document lacks take their defaults, and fields that the class lacks are ignored, so
that records of earlier and later versions load.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_TYPES = 128
"""Decoders that are kept; the program has a few dozen types of documents."""


def encode(value: object) -> bytes:
    """Return ``value`` as one line of compact JSON in UTF-8.

    Takes dataclasses, enums, paths and plain values, nested. NaN and infinity become ``null``.

    Raises:
        TypeError: something in it is none of these.
    """
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        # Half of a surrogate pair, as in a file name that is not UTF-8. json escapes it.
        return json.dumps(plain(value), separators=(",", ":")).encode()


def decode(document: str | bytes, type_: type[T]) -> T:
    """Return the value of ``type_`` that `encode` made ``document`` of.

    Raises:
        ValueError: the document is not JSON, a field is missing or has another type.
    """
    decoder: msgspec.json.Decoder[T] = _decoder(type_)  # type: ignore[arg-type]  # types are hashable
    try:
        return decoder.decode(document)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # What json writes and msgspec does not read: NaN, half of a surrogate pair.
        return convert(json.loads(document), type_)


def plain(value: object) -> Any:
    """Return ``value`` as dicts, lists, strings and numbers.

    Raises:
        TypeError: something in it is no dataclass, enum, path or plain value.
    """
    return msgspec.to_builtins(value, enc_hook=_encode_other)


def convert(document: object, type_: type[T]) -> T:
    """Return the value of ``type_`` that `plain` made ``document`` of.

    Raises:
        ValueError: a field is missing or has another type.
    """
    return msgspec.convert(document, type_, dec_hook=_decode_other)


def _encode_other(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def _decode_other(type_: type, value: Any) -> Any:
    if issubclass(type_, Path) and isinstance(value, str):
        return type_(value)
    raise TypeError(f"{type_.__name__} can't be read from JSON")


@functools.lru_cache(_TYPES)
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_, dec_hook=_decode_other)


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_other)
