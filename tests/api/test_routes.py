"""The table of routes: what the contract has, and no query parameter beyond it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testkit import contract
from testkit.running import Caller, Server
from upscaled.api.routes import ROUTES, Route

NOBODYS = "1234567890123456789"
PLACES = {
    "job_id": NOBODYS,
    "filename": "photo.jpg",
    "side": "result",
    "level": "0",
    "column": "0",
    "row": "0",
}


def test_the_contract_has_every_route_with_its_query_parameters() -> None:
    operations = {
        (method.upper(), path): operation
        for path, item in contract.document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    routes = {(r.method, r.path): r for r in ROUTES if not r.path.startswith("/docs/")}
    assert routes.keys() == operations.keys()
    for key, route in routes.items():
        described = [contract.resolved(p)[0] for p in operations[key].get("parameters", [])]
        query = {p["name"] for p in described if p["in"] == "query"}
        assert query == (route.query or set()), key
        assert (operations[key].get("security") == []) == route.public, key


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.query is not None], ids=lambda r: f"{r.method} {r.path}"
)
async def test_an_unknown_query_parameter_is_refused(api: Caller, route: Route) -> None:
    method, path = route.method, route.path.format(**PLACES)
    for query in ("scael=3", "z", "_=17", "%77ait2=1"):
        answer = await api.call(method, f"{path}?{query}")
        assert (answer.status, answer.json["code"]) == (400, "bad_request")
        assert answer.json["error"].startswith("There is no query parameter '")


async def test_the_refusal_names_what_is_allowed(api: Caller) -> None:
    told = (await api.get(f"/status/{NOBODYS}?wait=3&wiat=3")).json["error"]
    assert told == "There is no query parameter 'wiat' here; allowed is wait."
    told = (await api.post(f"/cancel/{NOBODYS}?now=1")).json["error"]
    assert told == "There is no query parameter 'now' here; this address takes none."


async def test_unknown_paths_and_the_pages_files_take_any_query(
    api: Caller, serve: Callable[..., Server]
) -> None:
    assert (await api.get("/nowhere?x=1")).status == 404
    assert (await api.call("DELETE", "/upscale?x=1")).status == 405
    assert (await api.get("/docs?utm=x")).status == 200
    assert (await api.get("/docs/docs.js?v=1.0.0")).status == 200
