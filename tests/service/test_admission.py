import pytest

from upscaled.errors import BadRequestError
from upscaled.pictures import Size
from upscaled.service.job_options import output_format, output_size, parse_fields
from upscaled.submission_fields import FIELDS


def test_no_fields_are_no_wishes() -> None:
    options = parse_fields({})
    wanted = (options.scale, options.format, options.tile_size, options.model_name, options.width)
    assert wanted == (None,) * 5
    assert options.keep_metadata
    assert not options.tta
    assert options.background == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("scale", "5", "The field scale is '5'; it must be 2, 3 or 4."),
        ("scale", "", "The field scale is ''; it must be 2, 3 or 4."),
        ("scale", "2.0", "The field scale is '2.0'; it must be 2, 3 or 4."),
        ("scale", "٢", "The field scale is '٢'; it must be 2, 3 or 4."),
        ("format", "gif", "The field format is 'gif'; it must be png, jpg or webp."),
        (
            "tile_size",
            "31",
            "The field tile_size is '31'; it must be 0 (automatic) or between 32 and 4096.",
        ),
        (
            "tile_size",
            "-1",
            "The field tile_size is '-1'; it must be 0 (automatic) or between 32 and 4096.",
        ),
        ("width", "0", "The field width is '0'; it must be between 1 and 1000000 pixels."),
        ("quality", "0", "The field quality is '0'; it must be between 1 and 100."),
        ("quality", "101", "The field quality is '101'; it must be between 1 and 100."),
        ("tta", "maybe", "The field tta is 'maybe'; it must be true or false."),
        (
            "background",
            "red",
            "The field background is 'red'; it must be a colour such as #ffffff.",
        ),
    ],
)
def test_a_wrong_field_is_answered_with_what_is_allowed(
    name: str, text: str, sentence: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_fields({name: text})
    assert caught.value.message == sentence
    assert caught.value.status == 400


def test_an_unknown_field_is_answered_with_those_there_are() -> None:
    with pytest.raises(BadRequestError, match=r"no field 'sclae'; the fields are image, scale, "):
        parse_fields({"sclae": "2"})
    assert "model_name" in FIELDS


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scale": "2", "width": "100"}, "Give either scale or width/height, not both."),
        ({"quality": "9", "lossless": "true"}, "Give either quality or lossless=true, not both."),
    ],
)
def test_contradictions_are_refused(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_fields(fields)
    assert caught.value.message == sentence


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"scale": "3"}, Size(1800, 1200)),
        ({}, Size(2400, 1600)),
        ({"width": "1000"}, Size(1000, 667)),
        ({"height": "1000"}, Size(1500, 1000)),
        ({"width": "1000", "height": "500"}, Size(750, 500)),
        ({"width": "600"}, Size(600, 400)),
    ],
)
def test_the_promised_size(fields: dict[str, str], size: Size) -> None:
    assert output_size(Size(600, 400), parse_fields(fields), default_scale=4) == size


def test_a_size_below_the_pictures_own_or_far_above_it_is_refused() -> None:
    with pytest.raises(BadRequestError, match="has 600×400 pixels already"):
        output_size(Size(600, 400), parse_fields({"width": "599"}), 4)
    with pytest.raises(BadRequestError, match="at most 16 times"):
        output_size(Size(600, 400), parse_fields({"width": "9601"}), 4)


@pytest.mark.parametrize(
    ("wanted", "upload", "result"),
    [
        (None, "jpeg", "jpg"),
        (None, "webp", "webp"),
        (None, "png", "png"),
        (None, "bmp", "png"),
        (None, "tiff", "png"),
        ("jpg", "png", "jpg"),
    ],
)
def test_the_results_format_is_the_uploads_unless_asked_otherwise(
    wanted: str | None, upload: str, result: str
) -> None:
    assert output_format(wanted, upload) == result


def test_jpeg_is_another_word_for_jpg() -> None:
    assert parse_fields({"format": "JPEG"}).format == "jpg"
