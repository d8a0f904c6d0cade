"""The table of routes: what the contract has, and no query parameter beyond it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import aiohttp
import pytest

from testkit import contract
from testkit.running import FAST_MODEL, Api, Server, a_picture
from upscaled.api.routes import ROUTES, Route
from upscaled.api.submit import FIELD_NAMES_OF_FILE

PNG = {"Content-Type": "image/png"}
NOBODYS = "1234567890123456789"
PLACES = {
    "job_id": NOBODYS,
    "filename": "photo.jpg",
    "side": "result",
    "level": "0",
    "column": "0",
    "row": "0",
    "import_id": NOBODYS,
    "archive_id": NOBODYS,
    "upload_id": NOBODYS,
    "name": "nothing",
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
        for one in described:  # see `test_an_empty_query_parameter_counts_as_not_given`
            optional_query = one["in"] == "query" and not one.get("required", False)
            assert one.get("allowEmptyValue", False) == optional_query, (key, one["name"])
        assert (operations[key].get("security") == []) == route.public, key


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.query is not None], ids=lambda r: f"{r.method} {r.path}"
)
async def test_an_unknown_query_parameter_is_refused(api: Api, route: Route) -> None:
    method, path = route.method, route.path.format(**PLACES)
    for query in ("scael=3", "z", "_=17", "%77ait2=1"):
        answer = await api.call(method, f"{path}?{query}")
        assert (answer.status, answer.json["code"]) == (400, "bad_request")
        assert answer.json["error"].startswith("There is no query parameter '")


async def test_the_refusal_names_what_is_allowed(api: Api) -> None:
    told = (await api.get(f"/status/{NOBODYS}?wait=3&wiat=3")).json["error"]
    assert told == "There is no query parameter 'wiat' here; the parameter is wait."
    told = (await api.post(f"/cancel/{NOBODYS}?now=1")).json["error"]
    assert told == "There is no query parameter 'now' here; this address takes none."


def with_empty(path: str, **given: str) -> str:
    """Return ``path`` with all query parameters of its route: those that are not given, empty."""
    start = path.split("/")[1]
    alike = [
        r
        for r in ROUTES
        if r.path.split("/")[1] == start and r.path.count("/") == path.count("/") and r.query
    ]
    (route,) = [r for r in alike if r.method == "GET"] or alike
    assert route.query is not None
    return f"{path}?" + urlencode({**dict.fromkeys(route.query, ""), **given})


async def test_an_empty_query_parameter_counts_as_not_given(api: Api, server: Server) -> None:
    fields = {"model_name": FAST_MODEL, "wait": "45"}
    empty = "&".join(f"{name}=" for name in FIELD_NAMES_OF_FILE if name not in fields)
    answer = await api.call("PUT", f"/upscale?{urlencode(fields)}&{empty}", data=a_picture())
    assert answer.status == 200, answer
    job_id = answer.json["job_id"]
    plain = await api.get(f"/status/{job_id}")
    assert (await api.get(with_empty(f"/status/{job_id}"))).json == plain.json
    assert (await api.get(with_empty("/jobs"))).json == (await api.get("/jobs")).json
    assert (await api.get(with_empty("/models"))).json == (await api.get("/models")).json
    shown = await api.get(with_empty(f"/thumbnail/{job_id}"))
    assert shown.body == (await api.get(f"/thumbnail/{job_id}")).body
    size = {"input_width": "30", "input_height": "20"}
    form = aiohttp.FormData({"tta": ""}, default_to_multipart=True)
    estimated = await api.post(with_empty("/estimate", **size), data=form)
    assert estimated.json["output_size"] == {"width": 120, "height": 80}
    preview = with_empty("/preview", model_name=FAST_MODEL)
    assert (await api.post(preview, data=a_picture(), headers=PNG)).status == 200
    assert (await api.get(f"/results?job_ids={job_id}&keep=true")).status == 200
    archive = await api.get(with_empty("/results", job_ids=job_id))
    assert archive.status == 200
    # `keep` is false unless it is given.
    assert (await api.get(with_empty(f"/download/{job_id}"))).status == 410


async def test_an_empty_query_parameter_hides_no_other_value(api: Api) -> None:
    assert (await api.get("/models?scale=&scale=2")).json == (await api.get("/models?scale=2")).json
    for path in ("/models?scale=x&scale=", "/jobs?limit=&limit=0", "/results?job_ids="):
        assert (await api.get(path)).status == 400, path
    answer = await api.get("/models?sclae=")
    assert (
        answer.json["error"] == "There is no query parameter 'sclae' here; the parameter is scale."
    )


async def test_unknown_paths_and_the_pages_files_take_any_query(
    api: Api, serve: Callable[..., Server]
) -> None:
    assert (await api.get("/nowhere?x=1")).status == 404
    assert (await api.call("DELETE", "/upscale?x=1")).status == 405
    assert (await api.get("/docs?utm=x")).status == 200
    assert (await api.get("/docs/docs.js?v=1.0.0")).status == 200
