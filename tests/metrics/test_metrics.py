"""``/metrics``: what it counts, who may see it, and the dashboard and alerts that use it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testkit.jobs import make_job
from testkit.paths import ROOT
from testkit.ports import free_port
from testkit.proxies import server_program
from testkit.running import Api, Server, configured
from testkit.server_process import ServerProcess
from upscaled.callers import hash_of
from upscaled.jobs.job import Attempt, JobState
from upscaled.metrics.job_metrics import failure_reason

RULES = ROOT / "deploy" / "prometheus" / "upscaled.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "upscaled.json"

Samples = dict[str, float]


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(configured(tmp_path_factory.mktemp("data"), models_dir), self_test=True)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    async with Api(server) as caller:
        yield caller


async def asked(
    server: Server, *, headers: dict[str, str] | None = None, address: str = "127.0.0.1"
) -> tuple[int, str]:
    """Ask for the metrics; return status and body."""
    url = f"http://{address}:{server.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def samples(server: Server) -> Samples:
    """Return the present metrics; a sample's key is ``name{label="value"}``, labels sorted."""
    status, text = await asked(server)
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_a_job_from_upload_to_download_is_counted(server: Server, api: Api) -> None:
    before = await samples(server)
    job_id = await api.completed()
    whole = await api.get(f"/download/{job_id}")
    await api.get(f"/download/{job_id}")
    after = await samples(server)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    model = "realesr-animevideov3"
    assert grown(f'upscaled_jobs_ended_total{{model="{model}",reason="",state="completed"}}') == 1
    assert grown("upscaled_job_wait_seconds_count") == 1
    assert grown(f'upscaled_job_work_seconds_count{{model="{model}"}}') == 1
    for stage in ("wait", "upscale", "finish"):
        assert grown(f'upscaled_stage_seconds_count{{stage="{stage}"}}') == 1
    assert grown('upscaled_attempts_total{device="cpu",engine="builtin",outcome="ok"}') == 1
    assert grown('upscaled_verifications_total{outcome="passed"}') == 1
    assert grown('upscaled_device_busy_seconds_total{device="cpu",engine="builtin"}') > 0
    assert grown("upscaled_input_pixels_total") == 24 * 16
    assert grown("upscaled_sent_bytes_total") == len(whole.body)
    assert grown("upscaled_received_bytes_total") > 0
    assert grown("upscaled_result_bytes_total") == len(whole.body)
    assert grown('upscaled_refusals_total{code="already_downloaded"}') == 1
    path = "/api/v1/download/{job_id}"
    for status in (200, 410):
        name = f'upscaled_http_responses_total{{endpoint="{path}",method="GET",status="{status}"}}'
        assert grown(name) == 1
    assert after['upscaled_jobs{state="queued"}'] == 0
    assert after["upscaled_healthy"] == 1
    assert after["process_resident_memory_bytes"] > 0


async def test_jobs_that_do_not_complete_are_counted_too(server: Server, api: Api) -> None:
    before = await samples(server)
    big = await api.accepted(scale="4", model_name="realesrgan-x4plus")
    await api.post(f"/cancel/{big}")
    after = await samples(server)
    name = 'upscaled_jobs_ended_total{model="realesrgan-x4plus",reason="",state="cancelled"}'
    assert after[name] - before.get(name, 0) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": JobState.COMPLETED}, ""),
        ({"state": JobState.FAILED}, "picture"),
        ({"state": JobState.FAILED, "attempts": (Attempt("a", "b", 0, "no"),)}, "attempts"),
        ({"state": JobState.FAILED, "crashes": 3}, "server_crash"),
        ({"state": JobState.FAILED, "server_fault": True}, "server"),
    ],
)
def test_the_reasons_of_failures_are_a_few_words(changes: dict[str, object], reason: str) -> None:
    assert failure_reason(make_job(**changes)) == reason


async def test_paths_that_callers_make_up_make_no_new_series(server: Server, api: Api) -> None:
    async with aiohttp.ClientSession() as session:
        for n in range(20):
            async with session.request("GET", f"{server.url}/made-up-{n}"):
                pass
            async with session.request(f"MADE{n}", f"{server.url}/health"):
                pass
        async with session.patch(f"{server.url}/uploads/made-up"):
            pass
    names = [name for name in await samples(server) if "http_responses" in name]
    assert not [name for name in names if "made-up" in name or "MADE" in name]
    assert any('method="PATCH",status="404"' in name for name in names)


async def test_the_event_loop_is_measured_once_somebody_scrapes(server: Server) -> None:
    await samples(server)
    await asyncio.sleep(1)  # passing time is what is measured
    assert (await samples(server))["upscaled_event_loop_lag_seconds_count"] > 0


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"Via": "1.1 proxy"},
        {"Host": "photos.internal"},
    ],
)
async def test_a_proxy_on_this_machine_does_not_open_the_metrics(
    serve: Callable[..., Server], headers: dict[str, str]
) -> None:
    server = serve(server__allowed_hosts="*")
    assert (await asked(server))[0] == 200
    status, text = await asked(server, headers=headers)
    assert status == 403 and "metrics.token" in text and "upscaled_" not in text


@pytest.mark.parametrize("kept_as", [str, hash_of])
async def test_other_machines_need_the_token_of_the_metrics(
    serve: Callable[..., Server], kept_as: Callable[[str], str]
) -> None:
    server = serve(metrics__token=kept_as("a-long-secret"), server__auth_token="another-secret")
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}
    assert (await asked(server))[0] == 200, "this machine needs none"
    assert (await asked(server, headers=elsewhere))[0] == 401
    for token, status in (("a-long-secret", 200), ("another-secret", 401)):
        headers = {**elsewhere, "Authorization": f"Bearer {token}"}
        assert (await asked(server, headers=headers))[0] == status
    async with Api(server, "a-long-secret") as scraper:
        assert (await scraper.get("/jobs")).status == 401, "it opens nothing else"


async def test_without_metrics_there_is_nothing(serve: Callable[..., Server]) -> None:
    assert (await asked(serve(metrics__enabled="false")))[0] == 404


async def test_a_port_of_their_own_serves_metrics_and_nothing_else(
    models_dir: Path, tmp_path: Path
) -> None:
    port = free_port()
    settings = {"metrics.port": port, "metrics.token": "a-long-secret"}
    server = ServerProcess(tmp_path, models_dir, settings)
    await server.start()
    try:
        await server.wait_until_ready()
        async with aiohttp.ClientSession() as session:
            own = f"http://127.0.0.1:{port}"
            async with session.get(own + "/metrics") as answer:
                assert (answer.status, answer.headers["Server"]) == (401, "upscaled")
                assert (await answer.json())["error"] == (
                    "Metrics need the token of metrics.token, sent as `Authorization: Bearer …`."
                )
            bearer = {"Authorization": "Bearer a-long-secret"}
            async with session.get(own + "/metrics", headers=bearer) as answer:
                assert answer.status == 200 and "upscaled_jobs" in await answer.text()
                assert answer.headers["Server"] == "upscaled"
            async with session.get(own + "/api/v1/health", headers=bearer) as answer:
                assert (answer.status, answer.headers["Server"]) == (404, "upscaled")
                assert (await answer.json())["code"] == "not_found"
            async with session.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
                assert answer.status == 404
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/9.9\r\nAuthorization: Bearer a-long-secret\r\n\r\n")
        malformed = await reader.read()
        writer.close()
        assert b"400" in malformed and b"\r\nServer: upscaled\r\n" in malformed
    finally:
        await server.reap()
    assert "a-long-secret" not in server.log.read_text("utf-8")


@pytest.fixture
def serve(server: Server, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with settings of their own."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        folder = tmp_path / f"data{len(started)}"
        folder.mkdir()
        (folder / "models.json").write_bytes((server.data_dir / "models.json").read_bytes())
        running = Server(configured(folder, server.config.models_dir, **settings))
        with ThreadPoolExecutor(1) as thread:  # the test's event loop must not be blocked
            thread.submit(running.start).result()
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()


def promtool(*arguments: str | Path, text: str = "") -> str:
    """Run promtool; return what it says."""
    done = subprocess.run(
        [server_program("promtool"), *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_promtool_finds_nothing_wrong_with_names_and_types(server: Server, api: Api) -> None:
    await api.completed()
    _, text = await asked(server)
    assert await asyncio.to_thread(promtool, "check", "metrics", text=text) == ""


def expressions() -> dict[str, str]:
    """Return the expressions of the dashboard, by panel."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


def names_in(expression: str) -> set[str]:
    """Return the metrics that an expression or a file names."""
    return set(re.findall(r"\b(?:upscaled|process|python)_[a-z_]+\b", expression))


async def test_dashboard_and_alerts_use_metrics_and_labels_that_exist(
    server: Server, api: Api
) -> None:
    await api.completed()
    await api.get("/status/1111111111111111111")
    _, text = await asked(server)
    known, labels = set(), set()
    for family in text_string_to_metric_families(text):
        known |= {family.name, *(sample.name for sample in family.samples)}
        if family.type == "counter":
            known.add(family.name + "_total")
        for sample in family.samples:
            labels |= set(sample.labels)
    # These have no series before there was one.
    labels |= {"instance", "job", "device", "state", "reason", "outcome", "model", "stage", "code"}
    labels |= {"role", "worker"}  # those of a cluster, which tests/cluster looks at
    for name, expression in {**expressions(), "alerts": RULES.read_text("utf-8")}.items():
        assert names_in(expression) <= known, name
        for group in re.findall(r"by \(([a-z, ]+)\)", expression):
            assert set(re.split(r",\s*", group)) <= labels, (name, group)
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    own = {f.name for f in text_string_to_metric_families(text) if f.name.startswith("upscaled")}
    assert {name for name in own if f"`{name}" not in page} == set(), "docs/metrics.md lacks these"
    assert names_in(page) <= known


def test_promtool_accepts_the_alerts_and_they_fire_when_they_should(tmp_path: Path) -> None:
    promtool("check", "rules", RULES)
    cases = (Path(__file__).with_name("alerts.yml")).read_text("utf-8")
    (tmp_path / "alerts.yml").write_text(cases.replace("RULES", str(RULES)), "utf-8")
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "alerts.yml")


def test_promtool_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions().values())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    promtool("check", "rules", file)


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, TRACE),
        ({"traceparent": f"cc-{TRACE}-b7ad6b7169203331-01-more"}, TRACE),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": "mine"}, "mine"),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": f"ff-{TRACE}-b7ad6b7169203331-01"}, None),
        ({"traceparent": f"00-{TRACE.upper()}-b7ad6b7169203331-01"}, None),
        ({"traceparent": "nonsense"}, None),
    ],
)
async def test_a_trace_id_becomes_the_id_of_the_request(
    api: Api, headers: dict[str, str], taken: str | None
) -> None:
    answer = await api.get("/health", headers=headers)
    given = answer.headers["x-request-id"]
    assert given == taken if taken else (given != TRACE and len(given) == 32)
