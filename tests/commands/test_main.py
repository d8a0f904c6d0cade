"""The command line: what it takes, what it prints, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA, ROOT
from upscaled import __version__
from upscaled.callers import hash_of
from upscaled.commands import main
from upscaled.commands.main import config_file
from upscaled.config.table import settings


@contextlib.contextmanager
def serving(*arguments: str | Path, env: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Run a server; yield its URL and the lines it printed; it must stop cleanly afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", "upscaled", "serve", *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        assert server.stderr
        try:
            lines = []
            for line in server.stdout:
                lines.append(line.rstrip())
                if "/download/" in line:
                    break
            assert lines, server.stderr.read()
            yield lines[0].removeprefix("Listening on "), lines
        finally:
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=60)
        assert server.returncode == 0, errors


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_tells_what_it_waits_for_and_a_second_one_ends_it_at_once(
    env: dict[str, str], tmp_path: Path
) -> None:
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((2400, 1600)).save(tmp_path / "big.png")
    command = [sys.executable, "-m", "upscaled", "serve", "--port", "0", "--data-dir"]
    command.append(str(tmp_path))
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert server.stderr
        url = server.stdout.readline().split()[-1]
        sent = subprocess.run(
            ["curl", "--silent", "-F", f"image=@{tmp_path}/big.png", f"{url}/api/v1/upscale"],
            capture_output=True,
            text=True,
            check=True,
        )
        job_id = json.loads(sent.stdout)["job_id"]
        next(line for line in server.stderr if "job started" in line)
        server.send_signal(signal.SIGINT)
        told = next(line for line in server.stderr if "Stopping" in line)
        assert "waiting up to 20 s for 1 running job. A second Ctrl-C stops at once" in told
        server.send_signal(signal.SIGINT)
        began = time.monotonic()
        server.communicate(timeout=60)
        assert server.returncode == 0
        assert time.monotonic() - began < 15  # of the 20 s that it would have waited
    with serving("--port", "0", "--data-dir", tmp_path, env=env) as (url, _):
        status = subprocess.run(
            ["curl", "--silent", f"{url}/api/v1/status/{job_id}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(status.stdout)["status"] in {"queued", "processing"}
        subprocess.run(
            ["curl", "--silent", "-X", "POST", f"{url}/api/v1/cancel/{job_id}"],
            check=True,
            capture_output=True,
        )


def test_version_is_the_packages() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"upscaled {__version__}\n")


@pytest.mark.parametrize(
    "command", ["serve", "upscale", "models", "models install", "doctor", "setup"]
)
def test_every_command_explains_itself(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "--config" in done.stdout


def test_serve_has_a_flag_for_every_setting_that_names_one() -> None:
    text = run("serve", "--help").stdout
    flags = [setting.rule.flag for setting in settings() if setting.rule.flag]
    assert {"--host", "--port", "--data-dir", "--engine"} <= set(flags)
    assert all(str(flag) in text for flag in flags)


@pytest.mark.parametrize("arguments", [[], ["serv"], ["upscale", "one"], ["serve", "--prot", "1"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


def test_a_mistake_in_the_configuration_is_one_sentence_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("server: {port: 99999}")
    done = run("serve", "--config", file)
    assert done.returncode == 2
    assert done.stderr == (
        f"upscaled: {file}: server.port is 99999; it must be between 0 and 65535.\n"
    )


def test_in_the_journal_a_mistake_is_an_error(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with journal.open("w") as stream:
        status = os.fstat(stream.fileno())
        subprocess.run(
            [sys.executable, "-m", "upscaled", "serve", "--config", tmp_path / "none.yaml"],
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stderr=stream,
            timeout=60,
            check=False,
        )
    assert journal.read_text().startswith("<3>upscaled: The configuration file")


def test_an_option_before_an_action_counts(tmp_path: Path) -> None:
    done = run("models", "--config", tmp_path / "none.yaml", "list")
    assert done.returncode == 2
    assert "none.yaml does not exist" in done.stderr


def test_the_configuration_is_looked_for_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UPSCALED_CONFIG", raising=False)
    assert config_file(None) == ROOT / "config.yaml"
    (tmp_path / "config.yaml").touch()
    assert config_file(None) == tmp_path / "config.yaml"
    monkeypatch.setenv("UPSCALED_CONFIG", "/from/environment.yaml")
    assert config_file(None) == Path("/from/environment.yaml")
    assert config_file("/from/flag.yaml") == Path("/from/flag.yaml")


def test_an_installed_package_finds_the_services_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "venv/lib/python3/site-packages/upscaled/commands/main.py"
    settings_file = tmp_path / "etc.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UPSCALED_CONFIG", raising=False)
    monkeypatch.setattr(main, "__file__", str(installed))
    monkeypatch.setattr(main, "SYSTEM_CONFIG", settings_file)
    assert main.config_file(None) is None
    settings_file.touch()
    assert main.config_file(None) == settings_file


def test_models_are_installed_once_and_listed(env: dict[str, str], tmp_path: Path) -> None:
    env = {**env, "UPSCALED_UPSCALER_MODELS_PATH": str(tmp_path / "models")}
    first = run("models", "install", env=env)
    assert first.returncode == 0, first.stderr
    put, *licences = first.stdout.splitlines()
    assert put == f"Put 10 files into {tmp_path / 'models'}."
    assert [line.split()[-1] for line in licences] == ["[BSD-3-Clause]"] * 3
    second = run("models", "install", "--quiet", env=env)
    assert (second.returncode, second.stdout) == (0, "")
    listed = run("models", env=env)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^realesrgan-x4plus  .*×4", listed.stdout, re.MULTILINE)
    assert "realesr-animevideov3  ×2, ×3, ×4" in listed.stdout


def test_a_lone_param_is_listed_as_left_out(
    env: dict[str, str], tmp_path: Path, models_dir: Path
) -> None:
    for file in models_dir.glob("realesr-animevideov3-x2.*"):
        shutil.copy(file, tmp_path)
    shutil.copy(models_dir / "realesrgan-x4plus.param", tmp_path / "alone.param")
    done = run("models", "list", env={**env, "UPSCALED_UPSCALER_MODELS_PATH": str(tmp_path)})
    assert done.returncode == 0
    assert "alone" not in done.stdout
    assert re.search(r"^left out: alone", done.stderr, re.MULTILINE)


def test_a_reader_that_has_had_enough_is_no_error(env: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "upscaled", "models"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_listing_an_empty_folder_says_what_to_type(env: dict[str, str], tmp_path: Path) -> None:
    done = run("models", env={**env, "UPSCALED_UPSCALER_MODELS_PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "type: upscaled models install" in done.stderr


def pasted(document: str, mark: str, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the only block of ``document`` with ``mark`` in it, as a reader pastes it."""
    text = (ROOT / document).read_text("utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    (script,) = [block for block in blocks if mark in block]
    assert "http://127.0.0.1:8089/" in script
    script = script.replace("http://127.0.0.1:8089", url).replace("tests/data/", f"{DATA}/")
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("document", "mark", "shown"),
    [
        ("README.md", "-H 'Accept: image/*'", ""),
        ("docs/api.md", "JOB=", '"status":"completed"'),
    ],
)
def test_the_documents_walks_work_as_they_are_pasted(
    env: dict[str, str], tmp_path: Path, document: str, mark: str, shown: str
) -> None:
    with serving("--port", "0", "--data-dir", tmp_path / "data", env=env) as (url, _):
        done = pasted(document, mark, url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    (result,) = [path for path in tmp_path.iterdir() if path.is_file()]
    with Image.open(result) as large, Image.open(DATA / "coffee.jpg") as small:
        assert large.size == (small.width * 2, small.height * 2)


def test_serve_prints_the_lines_to_try_with_its_real_port_and_no_token(
    env: dict[str, str],
) -> None:
    env = {**env, "UPSCALED_SERVER_AUTH_TOKEN": "hidden-secret"}
    with serving("--port", "0", env=env) as (url, lines):
        port = int(url.rsplit(":", 1)[1])
        assert port > 0
        curls = [line for line in lines if "curl" in line]
        assert len(curls) == 3
        assert all(f"{url}/api/v1/" in line and "$TOKEN" in line for line in curls)
        assert "hidden-secret" not in "\n".join(lines)
        with socket.create_connection(("127.0.0.1", port)):
            pass


def test_a_port_in_use_is_one_sentence_and_ends_with_1(env: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            "serve", "--port", str(port), "--data-dir", tmp_path / "data",
            env=env,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"upscaled: Port {port} of 127.0.0.1 can't be listened on")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_setup_without_a_name_says_what_to_type() -> None:
    done = run("setup")
    assert done.returncode == 2
    assert "type: upscaled setup --binary, or --photo-fast" in done.stderr


def test_a_token_is_made_and_its_line_fits_the_configuration(env: dict[str, str]) -> None:
    done = run("token", "laptop", env=env)
    assert done.returncode == 0, done
    token = re.search(r"^The token, which is shown only now: (\S{43})$", done.stdout, re.MULTILINE)
    line = re.search(r"^    laptop: (sha256:[0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert token
    assert line
    assert hash_of(token[1]) == line[1]
    assert token[1] != run("token", "laptop", env=env).stdout.split()[5]
    wrong = run("token", "a b", env=env)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("upscaled: The name is 'a b'; it must be a name of letters")
