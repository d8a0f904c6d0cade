"""The container: its files name what exists, and it runs with as few rights as they promise.

`scripts/test-container` builds it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from testkit.parts import missing
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


CLUSTER: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy" / "compose.cluster.yaml").read_text("utf-8")
)
MEMBERS = {name: CLUSTER["services"][name] for name in ("server", "worker")}


def test_members_of_the_cluster_are_commands_with_settings_that_there_are() -> None:
    assert {name: member["command"] for name, member in MEMBERS.items()} == {
        "server": ["serve"], "worker": ["work"],
    }  # fmt: skip
    for member in MEMBERS.values():
        assert set(member["environment"]) <= VARIABLES
        assert {"UPSCALED_CLUSTER_DATABASE_URL", "UPSCALED_CLUSTER_BLOBS"} <= set(
            member["environment"]
        )
        assert member["build"] == SERVICE["build"] | {"args": {"EXTRAS": "[openvino,cluster]"}}
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in ("openvino", "cluster"):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)


def test_members_of_the_cluster_have_as_few_rights_as_one_machine() -> None:
    kept = ("read_only", "cap_drop", "security_opt", "tmpfs", "init", "pids_limit", "mem_limit",
            "stop_grace_period", "restart")  # fmt: skip
    for member in MEMBERS.values():
        assert {name: member[name] for name in kept} == {name: SERVICE[name] for name in kept}
        # The data folder is each container's own: a second one would refuse to use it.
        assert member["volumes"] == ["blobs:/blobs"]
    assert "-m 700 /data /blobs" in DOCKERFILE, "a new volume gets the owner of the folder"
    for name in ("devices", "group_add"):
        assert MEMBERS["worker"][name] == SERVICE[name]
        assert name not in MEMBERS["server"]


def test_nobody_outside_reaches_the_clusters_database_or_its_servers_directly() -> None:
    ports = {name: one["ports"] for name, one in CLUSTER["services"].items() if "ports" in one}
    assert ports == {"balancer": SERVICE["ports"]}


def test_haproxy_takes_the_clusters_balancer(tmp_path: Path) -> None:
    content = CLUSTER["configs"]["balancer"]["content"]
    port, prefix = Config().server.port, Config().server.api_prefix
    assert f"server:{port}" in content
    assert f"uri {prefix}/limits" in content
    unpacked = ROOT / ".tools" / "servers" / "usr" / "sbin" / "haproxy"
    program = shutil.which("haproxy") or (str(unpacked) if unpacked.exists() else None)
    if program is None:
        missing("haproxy")
    file = tmp_path / "haproxy.cfg"
    file.write_text(content, "utf-8")
    done = subprocess.run(
        [str(program), "-c", "-f", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
