"""docs/api.md names what there is."""

from __future__ import annotations

from testkit import contract
from testkit.paths import ROOT
from upscaled import errors
from upscaled.api.upload import BodyTypeError
from upscaled.errors import ConfigError, EngineError, UpscaledError

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


def test_the_page_names_every_path() -> None:
    for path, operations in contract.document()["paths"].items():
        for method in operations.keys() & {"get", "post"}:
            assert f"| {method.upper()} | `{path}` |" in PAGE


def test_the_page_names_every_error_code_with_its_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in [*kinds, BodyTypeError]:
        never_an_answer = issubclass(kind, ConfigError | EngineError)
        if issubclass(kind, UpscaledError) and "code" in vars(kind) and not never_an_answer:
            rows = [line for line in PAGE.splitlines() if line.startswith(f"| {kind.status} |")]
            assert any(f"`{kind.code}`" in row for row in rows), kind
