"""Checks answers against openapi.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from testkit.paths import ROOT

FILE = ROOT / "openapi.yaml"
_URI = "urn:openapi"


@dataclass(frozen=True)
class Answer:
    """An answer of the server; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@cache
def document() -> dict[str, Any]:
    """Return openapi.yaml."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return loaded


@cache
def _registry() -> Registry[Any]:
    empty: Registry[Any] = Registry()
    filled: Registry[Any] = empty.with_resource(_URI, DRAFT202012.create_resource(document()))
    return filled


def validate(content: object, pointer: str) -> None:
    """Fail unless ``content`` fits the schema at ``pointer`` (``/components/schemas/…``)."""
    validator = Draft202012Validator(
        {"$ref": f"{_URI}#{pointer}"},
        registry=_registry(),
        format_checker=FormatChecker(),
    )
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]
    assert not errors, f"{content!r} does not fit {pointer}: {errors}"


def resolved(node: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """Follow a reference; return the node and the pointer to it, if it was one."""
    pointer = None
    while "$ref" in node:
        pointer = node["$ref"].removeprefix("#")
        found: Any = document()
        for step in pointer.strip("/").split("/"):
            found = found[step.replace("~1", "/")]
        node = found
    return node, pointer


def _path_of(path: str) -> str | None:
    """Return the documented path that ``path`` (below the prefix) is one of."""
    for template in document()["paths"]:
        pattern = "[^/]+".join(re.escape(part) for part in re.split(r"\{[a-z_]+\}", template))
        if re.fullmatch(pattern, path):
            return str(template)
    return None


def check(method: str, path: str, answer: Answer) -> None:
    """Fail unless the contract allows ``answer`` to ``method path``, below the prefix."""
    template = _path_of(path)
    operation_name = "get" if method == "HEAD" else method.lower()
    if template is None or operation_name not in document()["paths"][template]:
        if path.startswith("/docs/") and answer.status == (301 if path == "/docs/" else 200):
            return  # the page's own files, or the way to it
        expected = 401 if answer.status == 401 else 404 if template is None else 405
        assert answer.status == expected, f"{method} {path} is not in the contract: {answer}"
        assert expected != 405 or answer.headers.get("allow"), answer
        _check_error(method, answer)
        return
    responses = document()["paths"][template][operation_name]["responses"]
    assert str(answer.status) in responses, f"{method} {path}: {answer} is not documented"
    response, pointer = resolved(responses[str(answer.status)])
    if pointer is None:
        escaped = template.replace("~", "~0").replace("/", "~1")
        pointer = f"/paths/{escaped}/{operation_name}/responses/{answer.status}"
    for name, described in response.get("headers", {}).items():
        header, _ = resolved(described)
        value = answer.headers.get(name.lower())
        assert value is not None or not header.get("required"), f"{name} is missing: {answer}"
        if value is not None:
            typed = int(value) if header["schema"].get("type") == "integer" else value
            Draft202012Validator(header["schema"]).validate(typed)
    if "content" not in response:
        assert not answer.body, answer
        return
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    assert media_type in response["content"], f"{method} {path}: {media_type} is not documented"
    if media_type == "application/json":
        if method == "HEAD":
            assert not answer.body
            return
        escaped = media_type.replace("/", "~1")
        validate(answer.json, f"{pointer}/content/{escaped}/schema")
        _check_compact(answer)
    if answer.status >= 400 and (template, answer.status) != ("/health", 503):
        # A server that can't upscale answers with its full health, not an error.
        _check_error(method, answer)


def _check_compact(answer: Answer) -> None:
    """Fail unless the JSON is byte for byte the compact form."""
    compact = json.dumps(answer.json, separators=(",", ":"), ensure_ascii=False).encode()
    assert answer.body == compact


def _check_error(method: str, answer: Answer) -> None:
    """Fail unless the answer has the one error shape, with a sentence in it."""
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    if method == "HEAD":
        return
    _check_compact(answer)
    assert list(answer.json)[:3] == ["success", "error", "code"], answer
    ended = "job_id" in answer.json  # a job that was waited for and gave no result
    validate(answer.json, f"/components/schemas/{'WaitedFailure' if ended else 'Error'}")
    sentence = answer.json["error"]
    assert sentence.endswith("."), sentence
    assert len(sentence.split()) > 2, sentence
    assert "Traceback" not in sentence
