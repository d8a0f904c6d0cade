from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from upscaled import serial
from upscaled.pictures import RawImage, Size


class Mood(StrEnum):
    GOOD = "good"


@dataclass(frozen=True)
class Document:
    name: str
    image: RawImage | None = None
    moods: tuple[Mood, ...] = ()
    colour: tuple[int, int, int] = (1, 2, 3)
    more: dict[str, Any] = field(default_factory=dict)


WHOLE = Document("ä\n", RawImage(Path("/x/y"), Size(2, 3)), (Mood.GOOD,), (7, 8, 9), {"a": [1.5]})


@pytest.mark.parametrize("document", [WHOLE, Document(""), Document("\udc80", more={"\udcff": 1})])
def test_a_value_comes_back_as_it_was(document: Document) -> None:
    encoded = serial.encode(document)
    assert b"\n" not in encoded
    assert serial.decode(encoded, Document) == document
    assert serial.decode(encoded.decode(), Document) == document
    assert serial.convert(serial.plain(document), Document) == document


def test_unknown_fields_are_ignored_and_missing_ones_take_their_defaults() -> None:
    assert serial.decode('{"name": "x", "later": {"a": 1}}', Document) == Document("x")


def test_what_json_wrote_and_msgspec_refuses_is_read() -> None:
    read = serial.decode('{"name": "\\udc80", "more": {"score": NaN}}', Document)
    assert read.name == "\udc80"
    assert str(read.more["score"]) == "nan"


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", "{}", '{"name": 1}', '{"name": "x", "moods": ["bad"]}',
     '{"name": "x", "image": {"path": 3, "size": {"width": 1, "height": 1}}}',
     '{"name": "\\udc80", "colour": [1, 2]}'],
)  # fmt: skip
def test_a_document_of_another_shape_is_a_value_error(document: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        serial.decode(document, Document)


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(TypeError, match="object can't be written as JSON"):
        serial.encode({"x": object()})
