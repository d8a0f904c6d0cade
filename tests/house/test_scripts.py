"""The shell scripts, without network and pip: a stand-in Python notes what it is asked to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.checkout import STAND_IN, Checkout
from testkit.parts import missing
from testkit.paths import ROOT

BASH_SCRIPTS = sorted(
    path
    for path in [*ROOT.glob("scripts/*"), *ROOT.glob("scripts/lib/*"), *ROOT.glob(".ci/*")]
    if path.is_file()
)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout without an environment yet."""
    return Checkout(tmp_path)


LDCONFIG = """#!/usr/bin/env bash
echo "libgomp.so.1 (libc6) => /lib/libgomp.so.1"
echo "${VULKAN:-}"
for ((n = 0; n < 20000; n++)); do echo "lib$n.so (libc6) => /lib/lib$n.so"; done
"""


@pytest.mark.parametrize(
    ("line", "missing"), [("libvulkan.so.1 (libc6) => /lib/libvulkan.so.1", False), ("", True)]
)
def test_a_library_is_found_in_however_long_a_list(
    checkout: Checkout, line: str, missing: bool
) -> None:
    shutil.copy(ROOT / "scripts" / "fetch-test-parts", checkout.root / "scripts")
    checkout.put("ldconfig", LDCONFIG)
    for _ in range(3):
        told = checkout.run("scripts/fetch-test-parts", env={"VULKAN": line}).stderr
        assert "npm" in told  # it got as far as to tell what there is not
        assert ("libvulkan1" in told) == missing
        assert "libgomp1" not in told


@pytest.mark.parametrize("script", BASH_SCRIPTS, ids=lambda path: path.name)
def test_the_shell_understands_every_script(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.suffix == ".sh" or os.access(script, os.X_OK)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        missing("shellcheck")
    done = subprocess.run(
        ["shellcheck", "--external-sources", *BASH_SCRIPTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_the_first_start_makes_the_environment_installs_and_serves(checkout: Checkout) -> None:
    done = checkout.run("scripts/serve", "--port", "9000")
    assert done.returncode == 0, done.stderr
    calls = checkout.calls()
    order = ["-m venv", "-m pip install", "-m upscaled models install", "-m upscaled serve"]
    positions = [next(n for n, call in enumerate(calls) if part in call) for part in order]
    assert positions == sorted(positions)
    assert calls[-1] == "python -m upscaled serve --port 9000"


def test_openvino_is_installed_where_it_is_wanted_and_once(checkout: Checkout) -> None:
    wanted = {"OPENVINO": "yes"}
    done = checkout.run("scripts/serve", env=wanted)
    assert "OPENVINO=no leaves it out" in done.stderr
    calls = checkout.calls()
    assert [call for call in calls if " openvino>=" in call] == [
        "python -m pip install --disable-pip-version-check --no-input openvino>=2025.0"
    ]
    assert calls[-1] == "python -m upscaled serve"
    checkout.run("scripts/serve", env=wanted)
    assert not [call for call in checkout.calls() if "pip" in call]


def test_a_start_without_openvino_is_a_start(checkout: Checkout) -> None:
    failing = {"OPENVINO": "yes", "OPENVINO_FAILS": "1"}
    for _ in range(2):
        done = checkout.run("scripts/serve", env=failing)
        assert done.returncode == 0
        assert "OpenVINO could not be installed; the ncnn library does its work." in done.stderr
        assert checkout.calls()[-1] == "python -m upscaled serve"
    checkout.run("scripts/serve", env={"OPENVINO": "no"})
    assert not [call for call in checkout.calls() if " openvino>=" in call]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_openvino_is_installed_starts_no_server(checkout: Checkout) -> None:
    # Like pip: Ctrl-C ends it with a status of its own.
    interrupted = STAND_IN.replace(
        '*" openvino>="*)',
        '*" openvino>="*) trap "exit 1" INT; kill -INT 0; sleep 5;;\n  *" x>="*)',
    )
    checkout.put("python3", interrupted)
    done = checkout.run("scripts/serve", env={"OPENVINO": "yes"})
    assert done.returncode == 130
    assert "Stopped before the installation was complete" in done.stderr
    assert "could not be installed" not in done.stderr
    assert not [call for call in checkout.calls() if "upscaled serve" in call]
    checkout.put("python3", STAND_IN)
    shutil.copy(checkout.tools / "python3", checkout.root / ".venv/bin/python")
    assert checkout.run("scripts/serve", env={"OPENVINO": "yes"}).returncode == 0
    assert [call for call in checkout.calls() if " openvino>=" in call]  # it is tried again


def test_openvino_is_for_processors_with_avx512_that_have_no_gpu_beside(checkout: Checkout) -> None:
    suits = "avx512f" in Path("/proc/cpuinfo").read_text() and not list(
        Path("/dev").glob("dri/renderD*")
    )
    checkout.run("scripts/serve", env={"OPENVINO": "auto", "OPENVINO_FAILS": "1"})
    assert any(" openvino>=" in call for call in checkout.calls()) == suits
    checkout.run("scripts/serve", env={"OPENVINO": "auto"})
    assert not [call for call in checkout.calls() if " openvino>=" in call]  # not at every start


def test_openvino_is_not_installed_for_an_emulated_processor(checkout: Checkout) -> None:
    # qemu-user shows the flags of the processor that it runs on.
    checkout.put("grep", '#!/usr/bin/env bash\n[[ "$*" == *avx512f* ]] || exec /bin/grep "$@"\n')
    checkout.put("uname", "#!/usr/bin/env bash\necho aarch64\n")
    checkout.run("scripts/serve", env={"OPENVINO": "auto"})
    assert not [call for call in checkout.calls() if " openvino>=" in call]


@pytest.mark.parametrize(
    ("full", "told"),
    [
        ("a checkout", "a checkout has 1 MB free and the installation takes 300 MB"),
        ("small", "small has 1 MB free and the installation takes 150 MB there for a while"),
    ],
)
def test_too_little_room_is_told_before_anything_is_made(
    checkout: Checkout, full: str, told: str
) -> None:
    checkout.put(
        "df",
        "#!/usr/bin/env bash\necho header\n"
        f'case $2 in *"{full}") echo / 9 9 1500 9 ;; *) echo / 9 9 9999999 9 ;; esac\n',
    )
    (checkout.root.parent / "small").mkdir()
    env = {"TMPDIR": str(checkout.root.parent / "small")}
    done = checkout.run("scripts/serve", env=env)
    assert done.returncode == 1
    assert told in done.stderr
    assert not (checkout.root / ".venv").exists()
    checkout.put("df", "#!/usr/bin/env bash\necho header\necho / 9 9 9999999 9\n")
    assert checkout.run("scripts/serve", env=env).returncode == 0


def test_a_temporary_folder_that_is_not_there_is_named(checkout: Checkout) -> None:
    done = checkout.run("scripts/serve", env={"TMPDIR": "/no/such/folder"})
    assert done.returncode == 1
    assert done.stderr.endswith("There is no folder /no/such/folder, which TMPDIR names.\n")


def test_the_second_start_neither_makes_nor_installs_anything(checkout: Checkout) -> None:
    checkout.run("scripts/serve")
    checkout.calls()
    done = checkout.run("scripts/serve")
    assert done.returncode == 0
    assert done.stderr == ""
    assert not [call for call in checkout.calls() if "pip" in call or "venv" in call]


def test_a_changed_project_file_is_installed_again(checkout: Checkout) -> None:
    checkout.run("scripts/serve")
    checkout.calls()
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    checkout.run("scripts/serve")
    calls = checkout.calls()
    assert [call for call in calls if "pip install" in call]
    assert not [call for call in calls if "-m venv" in call]


def test_another_python_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.run("scripts/serve")
    checkout.calls()
    checkout.run("scripts/serve", env={"VERSION": "3.14 stand-in"})
    assert [call for call in checkout.calls() if "-m venv" in call]


def test_a_half_made_environment_is_made_anew(checkout: Checkout) -> None:
    broken = checkout.run("scripts/serve", env={"VENV_FAILS": "1"})
    assert broken.returncode != 0
    (checkout.root / ".venv" / "leftover").touch()
    done = checkout.run("scripts/serve")
    assert done.returncode == 0
    assert not (checkout.root / ".venv" / "leftover").exists()


def test_an_interrupted_installation_is_done_again(checkout: Checkout) -> None:
    assert checkout.run("scripts/serve", env={"PIP_FAILS": "1"}).returncode != 0
    checkout.calls()
    assert checkout.run("scripts/serve").returncode == 0
    assert [call for call in checkout.calls() if "pip install" in call]


@pytest.mark.parametrize(
    ("pip_says", "told"),
    [
        ("NewConnectionError: Temporary failure in name resolution", "cannot be reached"),
        ("ERROR: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: something else", "the lines above"),
    ],
)
def test_a_failed_installation_is_explained(checkout: Checkout, pip_says: str, told: str) -> None:
    done = checkout.run("scripts/serve", env={"PIP_FAILS": "1", "PIP_SAYS": pip_says})
    assert done.returncode == 1
    assert told in done.stderr
    assert pip_says in done.stderr
    assert not [call for call in checkout.calls() if "-m upscaled" in call]


def test_without_any_python_the_user_is_told_what_to_install(checkout: Checkout) -> None:
    (checkout.tools / "python3").unlink()
    done = checkout.run("scripts/serve")
    assert done.returncode == 1
    assert "Install Python 3.11 or newer" in done.stderr


def test_a_python_that_is_too_old_is_named(checkout: Checkout) -> None:
    done = checkout.run("scripts/serve", env={"TOO_OLD": "1"})
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; the python3 here is 3.9.2." in done.stderr


def test_a_newer_python_of_another_name_is_found(checkout: Checkout) -> None:
    checkout.put("python3.12", STAND_IN)
    checkout.put("python3", "#!/usr/bin/env bash\nexit 1\n")
    assert checkout.run("scripts/serve").returncode == 0
    assert [call for call in checkout.calls() if call.startswith("python3.12 -m venv")]


def test_a_missing_venv_module_names_the_line_to_type(checkout: Checkout) -> None:
    checkout.put("apt-get", "#!/usr/bin/env bash\nexit 1\n")
    checkout.put("id", "#!/usr/bin/env bash\necho 1000\n")
    done = checkout.run("scripts/serve", env={"NO_VENV": "1"})
    assert done.returncode == 1
    assert done.stderr.endswith("sudo apt-get update && sudo apt-get install -y python3-venv\n")


def test_root_gets_the_missing_package_installed(checkout: Checkout) -> None:
    # This apt-get "installs" by putting a python3 in place that can make environments.
    whole = STAND_IN.replace("${NO_VENV:-0}", "0")
    (checkout.tools / "whole").write_text(whole)
    checkout.put(
        "apt-get",
        '#!/usr/bin/env bash\necho "apt-get $*" >>"$CALLS"\necho "Reading package lists"\n'
        'if [ "$1" = install ]; then echo "dlstatus:1:3.5:Retrieving" >&3;'
        ' for p in 25.0 26.1; do echo "pmstatus:python3-venv:$p:Unpacking" >&3; done; fi\n'
        '[ "$1" = update ] || cp "$(dirname "$0")/whole" "$(dirname "$0")/python3"\n',
    )
    checkout.put("id", "#!/usr/bin/env bash\necho 0\n")
    done = checkout.run("scripts/serve", env={"NO_VENV": "1"})
    assert done.returncode == 0, done.stderr
    calls = [call for call in checkout.calls() if call.startswith("apt-get")]
    install = "apt-get install -y --no-install-recommends -o APT::Status-Fd=3 python3-venv"
    assert calls == ["apt-get update", install]
    assert [line.strip() for line in done.stderr.splitlines() if "%" in line] == [
        "Debian packages: 3 % downloaded",
        "Debian packages: 25 % installed",
    ]
    assert "Reading package lists" not in done.stderr


def test_two_starts_at_once_make_one_environment(checkout: Checkout) -> None:
    slow = STAND_IN.replace('"-m venv "*)', '"-m venv "*) sleep 0.5;')
    checkout.put("python3", slow)
    arguments = [checkout.root / "scripts" / "serve"]
    env = {"PATH": str(checkout.tools), "CALLS": str(checkout.root.parent / "calls")}
    both = [subprocess.Popen(arguments, env=env, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len([call for call in checkout.calls() if "-m venv" in call]) == 1


@pytest.mark.parametrize("given", [["--config", "/x/y.yaml"], ["--config=/x/y.yaml"]])
def test_models_are_installed_where_the_named_configuration_says(
    checkout: Checkout, given: list[str]
) -> None:
    checkout.run("scripts/serve", *given)
    assert [c for c in checkout.calls() if c.endswith("models install --quiet --config /x/y.yaml")]


def test_asking_for_help_installs_no_models(checkout: Checkout) -> None:
    checkout.run("scripts/serve", "--help")
    assert not [call for call in checkout.calls() if "models install" in call]


def test_arguments_of_the_test_script_go_to_pytest(checkout: Checkout) -> None:
    done = checkout.run("scripts/test", "tests/test_x.py", "-k", "two words")
    assert done.returncode == 0, done.stderr
    calls = checkout.calls()
    assert calls[-1] == "python -m pytest tests/test_x.py -k two words"
    assert [call for call in calls if "--group" in call and "pyproject.toml:test" in call]


@pytest.mark.parametrize("arguments", [(), ("--all",), ("--all", "-k", "x")])
def test_only_with_all_the_test_script_gets_further_parts(
    checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    (checkout.root / "scripts" / "fetch-test-parts").write_text(
        '#!/usr/bin/env bash\necho fetched >>"$CALLS"\n'
    )
    checkout.run("scripts/test", *arguments)
    calls = checkout.calls()
    assert ("fetched" in calls) == ("--all" in arguments)
    assert calls[-1] == " ".join(["python -m pytest", *arguments[1:]])


def test_in_ci_everything_is_tested() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "scripts/lint\n" in script
    runs = re.findall(r"^scripts/test ([^>|#&]+?) *(?:>|\|\|)", script, re.MULTILINE)
    # What the last run leaves out, the ones before it do.
    assert runs == [
        "--all tests/house",
        "tests/cluster",
        "--ignore=tests/cluster --ignore=tests/house",
    ]


def test_in_ci_the_test_script_lets_no_skip_pass(checkout: Checkout) -> None:
    checkout.run("scripts/test", env={"CI": "true"})
    assert checkout.calls()[-1] == "python -m pytest -p testkit.ci"


def test_a_skip_in_ci_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a():\n    pass\ndef test_b():\n    pytest.skip('no part')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    command += ["--rootdir", str(tmp_path), "-c", os.devnull]
    plain = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    strict = subprocess.run(
        [*command, "-p", "testkit.ci"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert plain.returncode == 0, plain.stdout
    assert strict.returncode == 1
    assert "SKIPPED IN CI, which is a failure: test_it.py::test_b" in strict.stdout
