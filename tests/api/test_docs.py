"""The contract, served: the very file, and a page that needs nobody else's server."""

from __future__ import annotations

import re
from collections.abc import Callable

import yaml
from jsonschema import Draft202012Validator

from testkit import contract
from testkit.running import Api, Server


async def test_the_served_contract_is_the_file_itself(api: Api) -> None:
    answer = await api.get("/openapi.yaml")
    assert answer.body == contract.FILE.read_bytes()
    assert answer.headers["content-type"] == "application/yaml"


async def test_the_served_contract_names_the_prefix_the_server_has(
    serve: Callable[..., Server],
) -> None:
    async with Api(serve(server__api_prefix="/pictures/v9")) as api:
        served = yaml.safe_load((await api.get("/openapi.yaml")).body)
    assert served["servers"] == [{"url": "/pictures/v9"}]
    assert served["paths"] == contract.document()["paths"]


def test_every_schema_of_the_contract_is_a_schema() -> None:
    for schema in contract.document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_component_of_the_contract_is_used() -> None:
    text = contract.FILE.read_text("utf-8")
    for kind in ("schemas", "responses", "parameters", "headers"):
        for name in contract.document()["components"][kind]:
            assert f"#/components/{kind}/{name}" in text, f"nothing refers to {name}"


def test_every_error_of_the_contract_has_the_one_shape() -> None:
    for name, response in contract.document()["components"]["responses"].items():
        if name == "NotModified":  # no error, and without a body
            continue
        schema = response["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Error"}, name
        if "example" in response["content"]["application/json"]:
            example = response["content"]["application/json"]["example"]
            contract.validate(example, "/components/schemas/Error")


def test_the_examples_of_a_status_fit_their_schema() -> None:
    got = contract.document()["paths"]["/status/{job_id}"]["get"]["responses"]["200"]
    for example in got["content"]["application/json"]["examples"].values():
        contract.validate(example["value"], "/components/schemas/JobStatus")


async def test_the_page_loads_only_what_this_server_has(api: Api) -> None:
    page = await api.get("/docs")
    text = page.body.decode()
    assert "//" not in text.replace("<!doctype html>", "")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert "docs/swagger-ui-bundle.js" in addresses
    for address in addresses:
        assert (await api.get(f"/{address}")).status == 200, address
    assert "<script>" not in text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"


async def test_only_the_files_of_the_page_are_served(api: Api) -> None:
    for name in ("..%2f__init__.py", "index.html", "VERSION", "%2e%2e"):
        assert (await api.get(f"/docs/{name}")).status == 404


async def test_the_page_can_be_switched_off_and_the_contract_stays(
    serve: Callable[..., Server],
) -> None:
    plain = serve(features__docs="false")
    async with Api(plain) as api:
        assert (await api.get("/openapi.yaml")).status == 200
        for path in ("/docs/docs.js", "/docs/swagger-ui.css"):
            assert (await api.get(path)).status == 404
        assert (await api.get("/docs")).status == 404
