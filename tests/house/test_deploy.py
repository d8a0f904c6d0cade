"""The system service: a unit that systemd finds nothing wrong with, and its installation."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.checkout import Checkout
from testkit.parts import missing
from testkit.paths import ROOT
from upscaled.config.sources import load

UNIT = ROOT / "deploy" / "upscaled.service"
WORKER_UNIT = ROOT / "deploy" / "upscaled-worker.service"
WATCH_UNIT = ROOT / "deploy" / "upscaled-watch@.service"
MOST_EXPOSURE = 2.0


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def verify(unit: Path, folder: Path) -> None:
    """Let systemd check the unit, with a Python that is there before the installation."""
    copy = folder / unit.name
    text = unit.read_text("utf-8")
    copy.write_text(text.replace("/opt/upscaled/venv/bin/python", sys.executable), "utf-8")
    done = analyze("verify", "--man=no", "--recursive-errors=no", copy)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("unit", [UNIT, WORKER_UNIT], ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path, tmp_path: Path) -> None:
    verify(unit, tmp_path)


def test_systemd_finds_nothing_wrong_with_the_watch(tmp_path: Path) -> None:
    verify(WATCH_UNIT, tmp_path)


def test_the_watchs_command_line_is_one_that_the_command_takes(tmp_path: Path) -> None:
    text = WATCH_UNIT.read_text("utf-8")
    found = re.search(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)
    options = re.search(r"OPTIONS=(--recursive .*)$", text, re.MULTILINE)
    assert found
    assert options
    filled = found[1].replace("$OPTIONS", options[1]).replace("${IN}", str(tmp_path / "none"))
    command = [sys.executable, *filled.replace("${OUT}", str(tmp_path / "out")).split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"upscaled: There is no folder {tmp_path}/none.\n")


def test_a_mistake_in_the_settings_is_not_answered_by_restarts() -> None:
    # The exit status of ConfigError: tests/commands/test_main.py.
    for unit in (UNIT, WORKER_UNIT, WATCH_UNIT):
        assert "RestartPreventExitStatus=2\n" in unit.read_text("utf-8")


@pytest.mark.parametrize("unit", [UNIT, WORKER_UNIT], ids=lambda unit: unit.stem)
def test_the_unit_exposes_little(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(rf"Overall exposure level for {unit.name}: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSURE


@pytest.mark.parametrize("unit", [UNIT, WORKER_UNIT], ids=lambda unit: unit.stem)
def test_the_unit_stops_later_than_the_server_drains(unit: Path) -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text("utf-8"), re.MULTILINE)
    assert found
    # Beside running jobs, connections get ten seconds to end.
    assert int(found[1]) >= load(environ={}).server.drain_seconds + 20


def directives(unit: Path) -> dict[str, list[str]]:
    """Return the values of each directive of a unit."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_worker_is_confined_like_the_service_and_keeps_its_data_apart() -> None:
    service, worker = directives(UNIT), directives(WORKER_UNIT)
    own = {"Description", "WatchdogSec", "ExecStart", "StateDirectory", "CacheDirectory",
           "Environment", "EnvironmentFile", "WorkingDirectory"}  # fmt: skip
    assert {name: worker.get(name) for name in service.keys() - own} == {
        name: service[name] for name in service.keys() - own
    }
    assert worker.keys() - own == service.keys() - own
    assert worker["ExecStart"] == [service["ExecStart"][0].replace(" serve ", " work ")]
    assert worker["StateDirectory"] != service["StateDirectory"]
    (folder,) = worker["StateDirectory"]
    config = load(environ=dict(line.split("=", 1) for line in worker["Environment"]
                               if line.startswith("UPSCALED_")))  # fmt: skip
    assert str(config.data_dir) == f"/var/lib/{folder}"


SYSTEMCTL = """#!/usr/bin/env bash
echo "systemctl $*" >>"$CALLS"
case $1 in
  reset-failed) exit "${NEVER_FAILED:-0}" ;;
  restart) exit "${START_FAILS:-0}" ;;
esac
"""
GETENT = """#!/usr/bin/env bash
[ "$1" = group ] && [[ " ${GROUPS_THERE-render video} " == *" $2 "* ]]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout with what gets installed, and stand-ins for Python and systemctl."""
    made = Checkout(tmp_path)
    for name in ("mv", "rm", "sed", "mkdir", "cp", "cat", "ln", "mktemp", "readlink"):
        found = shutil.which(name)
        assert found
        if not (made.tools / name).exists():
            (made.tools / name).symlink_to(found)
    made.put("id", "#!/usr/bin/env bash\necho 0\n")
    made.put("systemctl", SYSTEMCTL)
    made.put("journalctl", '#!/usr/bin/env bash\necho "the log of: $*"\n')
    made.put("getent", GETENT)
    python = (made.tools / "python3").read_text()
    asked = '*realpath*) echo "${REAL:-/usr/bin/python3}" ;;\n  "-m venv "*)'
    made.put("python3", python.replace('"-m venv "*)', asked))
    for name in ("deploy", "upscaled"):
        (made.root / name).mkdir()
    shutil.copy(UNIT, made.root / "deploy")
    for name in ("config.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, made.root)
    return made


def install(checkout: Checkout, target: Path, *arguments: str, **more: str) -> str:
    """Run the script for ``target``; return what it said."""
    env = {"DESTDIR": str(target), **more}
    done = checkout.run("scripts/install-service", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_it_installs_package_models_settings_and_unit(checkout: Checkout, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install(checkout, target)
    calls = checkout.calls()
    assert not [call for call in calls if call.startswith("systemctl")]
    order = ["-m venv", "-m pip install", "-m upscaled models install"]
    positions = [next(n for n, call in enumerate(calls) if part in call) for part in order]
    assert positions == sorted(positions)
    assert (target / "etc/systemd/system/upscaled.service").read_text() == UNIT.read_text()
    settings = target / "etc/upscaled/config.yaml"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    config = load(settings, environ={})
    assert str(config.data_dir) == "/var/lib/upscaled"
    assert str(config.models_dir) == "/opt/upscaled/models"
    assert list(checkout.root.glob("build*")) == []
    assert (target / "usr/local/bin/upscaled").readlink() == Path("/opt/upscaled/venv/bin/upscaled")


@pytest.mark.parametrize("groups", ["", "render", "video", "video render"])
def test_the_unit_names_only_groups_that_the_machine_has(
    checkout: Checkout, tmp_path: Path, groups: str
) -> None:
    target = tmp_path / "target"
    install(checkout, target, GROUPS_THERE=groups)
    unit = target / "etc/systemd/system/upscaled.service"
    (line,) = re.findall(r"^SupplementaryGroups=(.*)$", unit.read_text(), re.MULTILINE)
    assert set(line.split()) == set(groups.split())
    verify(unit, tmp_path)


def rooted(checkout: Checkout, target: Path) -> None:
    """Let the script install below ``target`` as it does without DESTDIR."""
    script = checkout.root / "scripts" / "install-service"
    text = script.read_text()
    for path in ("/opt/", "/etc/", "/usr/local/bin/", "/var/"):
        text = re.sub(rf"(?<=[=( ]){path}", f"{target}{path}", text)
    script.write_text(text)


def test_installing_forgets_earlier_failures_before_it_starts_the_service(
    checkout: Checkout, tmp_path: Path
) -> None:
    rooted(checkout, tmp_path / "target")
    for never_failed in ("0", "1"):
        done = checkout.run("scripts/install-service", env={"NEVER_FAILED": never_failed})
        assert done.returncode == 0, done.stderr
        assert [call for call in checkout.calls() if call.startswith("systemctl")] == [
            "systemctl daemon-reload",
            "systemctl enable upscaled.service",
            "systemctl reset-failed upscaled.service",
            "systemctl restart upscaled.service",
        ]
        assert "Installed." in done.stderr


def test_a_service_that_does_not_start_shows_its_log(checkout: Checkout, tmp_path: Path) -> None:
    rooted(checkout, tmp_path / "target")
    done = checkout.run("scripts/install-service", env={"START_FAILS": "1"})
    assert done.returncode == 1
    assert "the log of: --unit upscaled.service" in done.stderr
    assert "Repair what the log names" in done.stderr
    assert "Installed." not in done.stderr


def test_a_mistake_in_the_settings_leaves_the_running_service_alone(
    checkout: Checkout, tmp_path: Path
) -> None:
    rooted(checkout, tmp_path / "target")
    env = {"MODELS_FAIL": "2"}
    done = checkout.run("scripts/install-service", env=env)
    assert done.returncode == 1
    assert "Repair what the line above names" in done.stderr
    assert not [call for call in checkout.calls() if call.startswith("systemctl")]


def test_a_command_of_somebody_else_stays(checkout: Checkout, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = target / "usr/local/bin/upscaled"
    command.parent.mkdir(parents=True)
    command.write_text("theirs")
    assert "belongs to something else and is kept" in install(checkout, target)
    install(checkout, target, "--remove")
    assert command.read_text() == "theirs"


def test_installing_again_keeps_the_settings(checkout: Checkout, tmp_path: Path) -> None:
    target = tmp_path / "target"
    install(checkout, target)
    settings = target / "etc/upscaled/config.yaml"
    settings.write_text("server:\n  port: 9000\n")
    assert "stays as it is" in install(checkout, target)
    assert settings.read_text() == "server:\n  port: 9000\n"


def test_removing_keeps_settings_and_pictures_unless_told_otherwise(
    checkout: Checkout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    install(checkout, target)
    state = target / "var/lib/private/upscaled"
    state.mkdir(parents=True)
    install(checkout, target, "--remove")
    assert not (target / "opt/upscaled").exists()
    assert not (target / "etc/systemd/system/upscaled.service").exists()
    assert (target / "etc/upscaled/config.yaml").exists()
    assert state.exists()
    install(checkout, target, "--remove", "--purge")
    assert list(target.rglob("*upscaled*")) == []


def test_a_dry_run_tells_everything_and_does_nothing(checkout: Checkout, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = checkout.run("scripts/install-service", "--dry-run")
    assert done.returncode == 0, done.stderr
    for step in ("mkdir", "-m venv /opt/upscaled/venv", "config.yaml", "reset-failed", "restart"):
        assert step in done.stderr
    assert not [call for call in checkout.calls() if "venv /opt" in call or "systemctl" in call]
    assert sorted(tmp_path.rglob("*")) == before
    assert done.stderr.endswith("\nNothing was changed.\n")


def test_a_python_in_a_home_directory_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    env = {"DESTDIR": str(tmp_path / "target"), "REAL": "/root/.pyenv/bin/python3.12"}
    done = checkout.run("scripts/install-service", env=env)
    assert done.returncode == 1
    assert "lies in a home directory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--purge"], "--remove only"), (["--x"], "--x is unknown")]
)
def test_a_wrong_command_line_is_refused(
    checkout: Checkout, arguments: list[str], told: str
) -> None:
    done = checkout.run("scripts/install-service", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
