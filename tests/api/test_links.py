"""Addresses in answers: those a caller can use, also behind a proxy that strips a path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from testkit.curl import curl
from testkit.running import FAST_MODEL, Api, Server, a_picture, configured

FORM = ("-F", "image=@photo.png", "-F", f"model_name={FAST_MODEL}", "-F", "scale=2")


async def submitted(api: Api, **headers: str) -> dict[str, str]:
    """Submit a picture with more headers; return the addresses in the answer by name."""
    answer = await api.upscale(a_picture(), {"model_name": FAST_MODEL}, headers=headers)
    assert answer.status == 202, answer
    assert answer.headers["location"] == answer.json["status_url"]
    await api.server.ended(answer.json["job_id"])
    return {key: url for key, url in answer.json.items() if key.endswith("_url")}


async def test_a_submission_is_answered_with_the_addresses_of_its_job(api: Api) -> None:
    answer = await api.upscale(a_picture(), {"model_name": FAST_MODEL})
    job_id = answer.json["job_id"]
    assert list(answer.json.items()) == [
        ("success", True),
        ("job_id", job_id),
        ("status_url", f"/api/v1/status/{job_id}"),
        ("download_url", f"/api/v1/download/{job_id}?wait=45"),
        ("cancel_url", f"/api/v1/cancel/{job_id}"),
        ("events_url", f"/api/v1/events/{job_id}"),
    ]


async def test_a_client_that_gets_the_result_at_once_gets_it(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(a_picture())
    told = await curl("-sS", *FORM, f"{server.url}/upscale", cwd=tmp_path)
    origin = server.url.removesuffix("/api/v1")
    address = origin + json.loads(told.stdout)["download_url"]
    done = await curl("-sS", "--fail", "-OJ", address, cwd=tmp_path)
    assert done.returncode == 0, done
    with Image.open(tmp_path / "photo_2x.png") as result:
        assert result.size == (48, 32)


async def test_a_download_waits_for_the_end_and_no_longer_than_asked(api: Api) -> None:
    slow = await api.accepted(a_picture(300, 300), model_name="realesrgan-x4plus", scale="4")
    waited = await api.get(f"/download/{slow}?wait=1")
    assert (waited.status, waited.json["code"]) == (409, "wrong_state")
    await api.post(f"/cancel/{slow}")
    assert (await api.get(f"/download/{slow}?wait=45")).status == 409
    job_id = await api.accepted()
    assert (await api.get(f"/download/{job_id}?wait=45")).status == 200
    assert (await api.get(f"/download/{job_id}?wait=45")).status == 410


@pytest.fixture(scope="module")
def proxied(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that trusts the proxies on this machine."""
    folder = tmp_path_factory.mktemp("proxied")
    shutil.copy(server.data_dir / "models.json", folder)
    settings = {"server__trusted_proxies": "127.0.0.1"}
    running = Server(configured(folder, server.config.models_dir, **settings))
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ("/upscaled", "/upscaled"),
        ("/a/b/", "/a/b"),
        ("/outer, /inner", "/outer/inner"),
        ("//evil.example", ""),
        ("https://evil.example", ""),
        ("/a b", ""),
        ("/" + "x" * 300, ""),
        ("/", ""),
        ("", ""),
    ],
)
async def test_the_path_that_a_trusted_proxy_strips_is_in_every_address(
    proxied: Server, header: str, path: str
) -> None:
    sent = {"X-Forwarded-Prefix": header}
    async with Api(proxied) as api:
        urls = await submitted(api, **sent)
        job_id = urls["status_url"].rpartition("/")[2]
        assert urls == {
            "status_url": f"{path}/api/v1/status/{job_id}",
            "download_url": f"{path}/api/v1/download/{job_id}?wait=45",
            "cancel_url": f"{path}/api/v1/cancel/{job_id}",
            "events_url": f"{path}/api/v1/events/{job_id}",
        }
        status = (await api.get(f"/status/{job_id}", headers=sent)).json
        assert status["download_url"] == f"{path}/api/v1/download/{job_id}"
        # Another way to the server has addresses of its own, although the job is the same.
        direct = (await api.get(f"/status/{job_id}")).json
        assert direct["download_url"] == f"/api/v1/download/{job_id}"
        contract = yaml.safe_load((await api.get("/openapi.yaml", headers=sent)).body)
        assert contract["servers"] == [{"url": f"{path}/api/v1"}]


async def test_nobody_else_can_put_a_path_into_addresses(api: Api) -> None:
    urls = await submitted(api, **{"X-Forwarded-Prefix": "/upscaled"})
    assert urls["status_url"].startswith("/api/v1/status/")


@pytest.mark.parametrize(
    "public", ["https://photos.example/upscaled", "https://photos.example/upscaled/", "/upscaled"]
)
async def test_the_public_address_of_the_settings_is_in_every_address(
    serve: Callable[..., Server], public: str
) -> None:
    server = serve(server__public_url=public)
    base = public.removesuffix("/") + "/api/v1"
    async with Api(server) as api:
        urls = await submitted(api)
        assert all(url.startswith(base + "/") for url in urls.values())
        contract = yaml.safe_load((await api.get("/openapi.yaml")).body)
        assert contract["servers"] == [{"url": base}]
        named = await api.get("/health", headers={"Host": "photos.example"})
        assert (named.status == 403) is (public == "/upscaled")
        for origin in ("file://", "http://", "https://evil.example"):
            assert (await api.post("/upscale", headers={"Origin": origin})).status == 403
