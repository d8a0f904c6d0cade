"""Loaded by schemathesis: what a picture and a model's name are, so that jobs come about."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.api.running import FAST_MODEL, a_picture

for media_type, kind in (("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")):
    schemathesis.openapi.media_type(
        media_type,
        st.tuples(st.integers(1, 9), st.integers(1, 9)).map(
            lambda size, kind=kind: a_picture(*size, kind)
        ),
    )


@schemathesis.hook
def before_load_schema(_: object, raw_schema: dict[str, Any]) -> None:
    """Name the models that the server under test has, which the contract cannot know."""
    fields = raw_schema["components"]["schemas"]["Submission"]["properties"]
    fields["model_name"]["enum"] = ["realesrgan-x4plus", FAST_MODEL]
