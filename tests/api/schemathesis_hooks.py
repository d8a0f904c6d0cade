"""Loaded by schemathesis: pictures, archives and names of models, so that jobs come about."""

from __future__ import annotations

import itertools
import re
from typing import Any

import schemathesis
from hypothesis import strategies as st

from testkit.books import a_book
from testkit.running import FAST_MODEL, a_picture


def pictures(kind: str) -> st.SearchStrategy[bytes]:
    """Return small pictures of a kind."""
    return st.builds(a_picture, st.integers(1, 9), st.integers(1, 9), st.just(kind))


schemathesis.openapi.media_type("image/png", pictures("PNG"))
schemathesis.openapi.media_type("image/jpeg", pictures("JPEG"))
schemathesis.openapi.media_type("image/webp", pictures("WEBP"))
for comic in ("application/zip", "application/vnd.comicbook+zip"):
    schemathesis.openapi.media_type(comic, st.builds(a_book, st.integers(1, 3)))


@schemathesis.hook
def before_load_schema(_: object, raw_schema: dict[str, Any]) -> None:
    """Name the models and the receivers of the server under test, which no contract can know."""
    schemas = raw_schema["components"]["schemas"]
    schemas["ModelName"]["enum"] = ["realesrgan-x4plus", FAST_MODEL]
    # Nobody listens there. Other addresses would be looked for in the network.
    schemas["CallbackUrl"]["enum"] = ["http://127.0.0.1:9/hook", "http://127.0.0.1:9/other?x=y"]
    schemas["ImageUrl"]["enum"] = ["http://127.0.0.1:9/photo.jpg"]


_calls = itertools.count()


@schemathesis.hook
def before_call(_: object, case: schemathesis.Case[Any], __: object) -> None:
    """Make most keys new: with few different ones, nearly every submission is a repetition."""
    key, number = case.headers.get("Idempotency-Key") if case.headers else None, next(_calls)
    if isinstance(key, str) and re.fullmatch("[!-~]{1,200}", key) and number % 10:
        case.headers["Idempotency-Key"] = f"{key}-{number}"
