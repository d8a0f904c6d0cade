"""The table of formats: each row agrees with what its encoder writes and its decoder reads."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from testkit.paths import ROOT
from testkit.pictures import encoded
from testkit.zoo import CARD
from upscaled.formats import (
    INPUT_NAMES,
    PNG,
    RESULT_NAMES,
    TABLE,
    PictureFormat,
    by_alias,
    by_signature,
    input_format,
    labels,
    result_format,
    result_format_for,
)

WRITABLE = [row for row in TABLE if row.result_name]


def _name(row: PictureFormat) -> str:
    return row.name


@pytest.mark.parametrize("row", TABLE, ids=_name)
def test_a_file_of_each_format_is_known_by_its_first_bytes(row: PictureFormat) -> None:
    data = encoded(CARD, row.plugin)
    assert by_signature(data[:64]) is row
    assert input_format(row.name) is row
    with Image.open(io.BytesIO(data), formats=[row.plugin]) as image:
        assert image.size == CARD.size


@pytest.mark.parametrize("row", WRITABLE, ids=_name)
def test_what_a_row_says_of_results_is_what_its_encoder_does(row: PictureFormat) -> None:
    assert result_format(row.result_name) is row
    assert by_alias(f" {row.result_name.upper()} ") is row
    assert all(by_alias(name) is row for name in row.aliases)
    assert row.media_type == Image.MIME[row.plugin]
    seen_through = CARD.copy()
    seen_through.putalpha(7)
    if row.has_alpha:
        with Image.open(io.BytesIO(encoded(seen_through, row.plugin))) as image:
            assert image.mode == "RGBA"
    else:
        with pytest.raises(OSError, match="cannot write mode RGBA"):
            encoded(seen_through, row.plugin)
    rough, fine = (encoded(CARD, row.plugin, quality=quality) for quality in (10, 90))
    assert (len(rough) < len(fine)) == row.has_quality


def test_the_api_describes_the_formats_of_the_table() -> None:
    document = (ROOT / "upscaled" / "web" / "openapi.yaml").read_text()
    assert f"format: {{ type: string, enum: [{', '.join(INPUT_NAMES)}] }}" in document
    assert document.count(f"enum: [{', '.join(RESULT_NAMES)}]") == 3


def test_names_lead_to_one_row_each_and_unknown_ones_to_none() -> None:
    names = [name for row in WRITABLE for name in (row.result_name, *row.aliases)]
    assert len(set(names)) == len(names)
    assert len(set(INPUT_NAMES)) == len(TABLE)
    assert set(RESULT_NAMES) == {row.result_name for row in WRITABLE}
    assert by_alias("gif") is None
    assert by_signature(b"GIF89a") is None


def test_a_result_whose_format_nobody_named_is_in_the_uploads_or_in_png() -> None:
    for row in TABLE:
        assert result_format_for(row.name) is (row if row in WRITABLE else PNG)


def test_formats_are_listed_as_a_sentence_lists_them() -> None:
    assert labels(("webp",)) == "WebP"
    assert labels(("webp", "png", "jpeg")) == "PNG, JPEG or WebP"
