"""Loaded by schemathesis: what a picture and a model's name are, so that jobs come about."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

from testkit.running import FAST_MODEL, a_picture


def pictures(kind: str) -> st.SearchStrategy[bytes]:
    """Return small pictures of a kind."""
    return st.builds(a_picture, st.integers(1, 9), st.integers(1, 9), st.just(kind))


schemathesis.openapi.media_type("image/png", pictures("PNG"))
schemathesis.openapi.media_type("image/jpeg", pictures("JPEG"))
schemathesis.openapi.media_type("image/webp", pictures("WEBP"))


@schemathesis.hook
def before_load_schema(_: object, raw_schema: dict[str, Any]) -> None:
    """Name the models that the server under test has, which the contract cannot know."""
    raw_schema["components"]["schemas"]["ModelName"]["enum"] = ["realesrgan-x4plus", FAST_MODEL]
