"""The container: its files name what exists, and it runs with as few rights as they promise.

`scripts/test-container` builds it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from testkit.paths import ROOT
from upscaled.config.settings import Config
from upscaled.config.table import ENV_PREFIX, settings

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
(SERVICE,) = COMPOSE["services"].values()
VARIABLES = {f"{ENV_PREFIX}{s.name.replace('.', '_').upper()}" for s in settings()}


def test_everything_that_is_copied_is_in_the_checkout_and_in_the_context() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert names
    assert names == {name.removeprefix("!") for name in ignored if name.startswith("!")}
    assert all((ROOT / name).exists() for name in names)


def test_every_variable_is_a_setting() -> None:
    named = set(re.findall(rf"\b({ENV_PREFIX}\w+)=", DOCKERFILE)) | set(SERVICE["environment"])
    assert named >= {"UPSCALED_SERVER_HOST", "UPSCALED_SERVER_AUTH_TOKEN"}
    assert named <= VARIABLES


def test_it_runs_as_a_user_without_rights_and_writes_to_its_volume_only() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"useradd --uid 8089 --user-group --no-create-home --home-dir /data {user}" in DOCKERFILE
    assert re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE) == ["/data"]
    assert "UPSCALED_STORAGE_DATA_DIR=/data" in DOCKERFILE
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert SERVICE["volumes"] == ["data:/data"]
    assert SERVICE["tmpfs"] == ["/tmp"]


def test_port_health_check_and_stop_fit_the_service() -> None:
    port = Config().server.port
    assert f"EXPOSE {port}" in DOCKERFILE
    assert f"http://127.0.0.1:{port}{Config().server.api_prefix}/health" in DOCKERFILE
    assert SERVICE["ports"] == [f"127.0.0.1:{port}:{port}"]
    grace = int(SERVICE["stop_grace_period"].removesuffix("s"))
    assert grace > Config().server.drain_seconds + 20


def test_the_extra_that_it_installs_exists() -> None:
    (extra,) = re.findall(r"^ARG EXTRAS=\[(\w+)\]$", DOCKERFILE, re.MULTILINE)
    assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert SERVICE["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
