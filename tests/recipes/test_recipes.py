"""The recipes of ``docs/recipes``: their commands, units, flows and settings are run."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3
import jinja2
import pytest
import yaml
from aiohttp import ClientSession, FormData
from moto.server import ThreadedMotoServer
from PIL import Image

from testkit import parts
from testkit.paths import DATA, ROOT
from testkit.running import FAST_MODEL, Server, a_picture, configured

RECIPES = ROOT / "docs/recipes"
ADDRESS = "http://127.0.0.1:8089"


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of a page in a language."""
    text = (RECIPES / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 server."""
    server = ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def server(
    models_dir: Path, tmp_path_factory: pytest.TempPathFactory, store: str
) -> Iterator[Server]:
    """A server that may fetch from the store."""
    settings = {
        "features__image_url": "true",
        "outgoing__allow": "127.0.0.1",
        "outgoing__ports": "",
        "upscaler__default_model": FAST_MODEL,
    }
    running = Server(configured(tmp_path_factory.mktemp("served"), models_dir, **settings))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def kept(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quickest model and with what commands keep between runs."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "models").mkdir()
    for file in models_dir.glob(f"{FAST_MODEL}-*"):
        (folder / "models" / file.name).symlink_to(file)
    return folder


@pytest.fixture
def env(kept: Path, tmp_path: Path) -> dict[str, str]:
    """An environment in which ``upscaled`` is this checkout's command."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("UPSCALED_")}
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/upscaled"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m upscaled "$@"\n')
    command.chmod(0o755)
    return {
        **plain,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "UPSCALED_UPSCALER_MODELS_PATH": str(kept / "models"),
        "UPSCALED_UPSCALER_DEFAULT_MODEL": FAST_MODEL,
        "UPSCALED_UPSCALER_ENGINE": "builtin",
        "UPSCALED_UPSCALER_GPU_IDS": "-1",
        "UPSCALED_STORAGE_DATA_DIR": str(kept / "data"),
    }


def sh(script: str, folder: Path, env: Mapping[str, str]) -> None:
    """Run a script as a reader pastes it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def at(server: Server, text: str) -> str:
    """Return a text of a page with the address of the test's server."""
    assert ADDRESS in text
    return text.replace(ADDRESS, f"http://127.0.0.1:{server.port}")


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.size


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_recipe_is_on_the_list_and_says_what_it_was_tried_with() -> None:
    pages = {path.name for path in RECIPES.glob("*.md")} - {"README.md"}
    listed = set(re.findall(r"\]\(([a-z0-9-]+\.md)\)", (RECIPES / "README.md").read_text()))
    assert pages == listed
    for page in pages:
        assert re.search(r"^Tried", (RECIPES / page).read_text(), re.MULTILINE), page
    assert "(docs/recipes/README.md)" in (ROOT / "README.md").read_text()


async def test_suwayomi_shows_what_comes_back(
    server: Server, env: dict[str, str], tmp_path: Path
) -> None:
    text = (RECIPES / "suwayomi.md").read_text()
    (target,) = re.findall(r"^\| target \| `(.*)` \|$", text, re.MULTILINE)

    async def page(picture: bytes) -> bytes:
        form = FormData()
        form.add_field("image", picture, filename="page.png")
        async with (
            ClientSession() as session,
            session.post(at(server, target), data=form) as answer,
        ):
            return await answer.read()

    shown = await asyncio.gather(*(page(a_picture(20 + number, 30)) for number in range(5)))
    assert [size_of(one) for one in shown] == [(2 * (20 + n), 60) for n in range(5)]
    broken = a_picture(20, 30)[:-40]
    assert await page(broken) == broken
    (tmp_path / "page.png").write_bytes(a_picture(24, 16))
    (script,) = blocks("suwayomi.md", "bash")
    await asyncio.to_thread(sh, at(server, script), tmp_path, env)
    assert size_of((tmp_path / "shown.png").read_bytes()) == (48, 32)


def test_a_photo_library_keeps_its_originals(env: dict[str, str], tmp_path: Path) -> None:
    library = tmp_path / "photos"
    (library / "2024/a & b").mkdir(parents=True)
    for name in ("2024/a & b/small.jpg", "old.jpg"):
        (library / name).write_bytes(a_picture(40, 30, "JPEG"))
    Image.new("RGB", (2000, 1200)).save(library / "large.jpg")
    before = digests(library)
    scripts = blocks("photo-library.md", "bash")
    for _ in range(2):
        for script in scripts:
            sh(script, tmp_path, env)
    assert digests(library) == before
    out = tmp_path / "enlarged"
    made = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.suffix in {".jpg", ".xmp"})
    assert made == ["2024/a & b/small.jpg", "2024/a & b/small.jpg.xmp", "old.jpg", "old.jpg.xmp"]
    assert size_of((out / "old.jpg").read_bytes()) == (80, 60)
    sidecar = ET.parse(out / "2024/a & b/small.jpg.xmp")
    (source,) = sidecar.iter("{http://purl.org/dc/elements/1.1/}source")
    assert source.text == "2024/a & b/small.jpg"


def test_crons_line_does_what_is_new(env: dict[str, str], tmp_path: Path) -> None:
    (line,) = blocks("cron.md", "crontab")
    fields = line.strip().split(maxsplit=5)
    assert all(re.fullmatch(r"[*/0-9,-]+", field) for field in fields[:5])
    assert "%" not in fields[5]  # cron would end the command there
    script = fields[5].replace("/srv/", f"{tmp_path}/").replace("/tmp/upscale", f"{tmp_path}/up")
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"in/{name}.png").write_bytes(a_picture(24, 16))
        sh(script, tmp_path, env)
        assert size_of((tmp_path / f"out/{name}.png").read_bytes()) == (48, 32)
    log = (tmp_path / "up.log").read_text()
    assert log.count("in/a.png") <= 1 or "skipped" in log, log


def test_systemds_units_are_right_and_their_command_runs(
    env: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("systemd-analyze") is None:
        parts.missing("systemd-analyze")
    text = (RECIPES / "systemd.md").read_text()
    names = re.findall(r"^`/etc/systemd/system/([a-z.-]+)`:$", text, re.MULTILINE)
    units = dict(zip(names, blocks("systemd.md", "ini"), strict=True))
    assert set(units) == {"upscale-inbox.path", "upscale-inbox.service"}
    for name, unit in units.items():
        there = unit.replace("/usr/local/bin/upscaled", str(tmp_path / "bin/upscaled"))
        (tmp_path / name).write_text(there)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
         *(str(tmp_path / name) for name in units)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)
    assert "Unit=upscale-inbox.service" in units["upscale-inbox.path"]
    (command,) = re.findall(r"^ExecStart=/usr/local/bin/(.*)$", text, re.MULTILINE)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(a_picture(24, 16))
    sh(command.replace("/srv/", f"{tmp_path}/"), tmp_path, env)
    assert size_of((tmp_path / "out/a.png").read_bytes()) == (48, 32)


def test_pictures_go_from_bucket_to_bucket(
    server: Server, store: str, env: dict[str, str], tmp_path: Path
) -> None:
    (settings,) = blocks("s3.md", "yaml")
    assert yaml.safe_load(settings)["features"] == {"image_url": True}
    keys = {
        "AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": store,
    }  # fmt: skip
    bucket = boto3.client(
        "s3", endpoint_url=store, region_name="us-east-1",
        aws_access_key_id="reader", aws_secret_access_key="secret",
    )  # fmt: skip
    bucket.create_bucket(Bucket="pictures")
    bucket.put_object(Bucket="pictures", Key="in/a b.png", Body=a_picture(24, 16))
    (program,) = blocks("s3.md", "python")
    made = subprocess.run(
        [sys.executable, "-c", program, "pictures", "in/a b.png", "out/a b.png"],
        env={**env, **keys}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    (script,) = blocks("s3.md", "bash")
    sh(at(server, script), tmp_path, {**env, "GET": made[0], "PUT": made[1]})
    stored = bucket.get_object(Bucket="pictures", Key="out/a b.png")["Body"].read()
    assert size_of(stored) == (48, 32)


REST_COMMAND = {
    "url", "method", "headers", "payload", "username", "password", "timeout", "content_type",
    "verify_ssl", "insecure_cipher", "skip_url_encoding",
}  # fmt: skip
"""The names that Home Assistant's documentation has for a ``rest_command``."""


def test_home_assistants_request_enlarges_what_an_address_shows(server: Server, store: str) -> None:
    settings, sequence = map(yaml.safe_load, blocks("home-assistant.md", "yaml"))
    command = settings["rest_command"]["upscale"]
    assert command.keys() <= REST_COMMAND
    assert command["method"] == "post"
    (call, _) = sequence["sequence"]
    assert call["action"] == "rest_command.upscale"
    bucket = boto3.client(
        "s3", endpoint_url=store, region_name="us-east-1",
        aws_access_key_id="reader", aws_secret_access_key="secret",
    )  # fmt: skip
    bucket.create_bucket(Bucket="camera")
    bucket.put_object(Bucket="camera", Key="door.png", Body=a_picture(24, 16))
    picture = bucket.generate_presigned_url("get_object", {"Bucket": "camera", "Key": "door.png"})
    address = jinja2.Template(command["url"]).render(picture=picture)
    request = urllib.request.Request(at(server, address), method="POST")
    with urllib.request.urlopen(request, timeout=command["timeout"]) as answer:
        content = json.load(answer)
    # What the script of the page reads.
    link = content["download_url"]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{link}") as answer:
        assert size_of(answer.read()) == (48, 32)


@contextlib.contextmanager
def node_red(flow: str, folder: Path) -> Iterator[int]:
    """Run Node-RED with a flow; give its port."""
    program = parts.node_red()
    folder.mkdir()
    port = free_port()
    (folder / "flows.json").write_text(flow)
    (folder / "settings.js").write_text(
        'module.exports = {flowFile: "flows.json", uiHost: "127.0.0.1", httpAdminRoot: false, '
        "telemetry: {enabled: false}};"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    process = subprocess.Popen(
        ["node", str(program), "--userDir", str(folder), "--port", str(port)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        said = ""
        while "Started flows" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def test_node_reds_flow_answers_with_the_enlarged_picture(
    server: Server, env: dict[str, str], tmp_path: Path
) -> None:
    (flow,) = blocks("node-red.md", "json")
    (script,) = blocks("node-red.md", "bash")
    with node_red(at(server, flow), tmp_path / "node-red") as port:
        with Image.open(DATA / "coffee.jpg") as photo:
            photo.resize((60, 40)).save(tmp_path / "photo.png")
        sh(script.replace(":1880/", f":{port}/"), tmp_path, env)
    assert size_of((tmp_path / "large.png").read_bytes()) == (120, 80)
