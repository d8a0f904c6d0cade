"""Generators of clients, and the clients that they make from openapi.yaml."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from testkit.parts import missing
from testkit.paths import ROOT

_TOOLS = ROOT / ".tools" / "generators"
"""Where scripts/fetch-test-parts installs them."""
SETTINGS = ROOT / "tests" / "neighbours" / "generators"
CLIENTS = ROOT / "tests" / "neighbours" / "clients"
_PYTHON = _TOOLS / "python" / "bin"
_NODE = _TOOLS / "node_modules"
_QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}


def program(name: str) -> str:
    """Return the path of a program on this machine; skip the test if there is none."""
    return shutil.which(name) or missing(name)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> str:
    """Run a program for up to ``seconds``; return what it says.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **_QUIET, **(env or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def tool(name: str) -> Path:
    """Return a generator or linter; skip the test if the generators are not installed."""
    if not (_TOOLS / ".installed").is_file():
        missing("a generator of clients")
    found = _PYTHON / name if (_PYTHON / name).is_file() else _NODE / ".bin" / name
    assert found.exists(), f"{name} is in neither requirements.txt nor package.json"
    return found


def python_client(name: str, folder: Path) -> str:
    """Generate a Python client into ``folder``; return what the generator says."""
    contract = ROOT / "openapi.yaml"
    if name == "openapi_python_client":
        return run([tool("openapi-python-client"), "generate", "--path", contract,
                    "--output-path", folder])  # fmt: skip
    return openapi_generator("python", folder)


def openapi_generator(language: str, folder: Path) -> str:
    """Generate a client in ``language`` with openapi-generator; return what it says."""
    program("java")
    return run([tool("openapi-generator-cli"), "generate", "-i", ROOT / "openapi.yaml",
                "-g", language, "-o", folder,
                "--additional-properties=packageName=upscaled_client"])  # fmt: skip


def go_program(source: Path, made: Path) -> Path:
    """Compile a program of Go's standard library; return ``made``."""
    found = sorted((_TOOLS / "python" / "lib").glob("python3*/site-packages/go/bin/go"))
    if not found:
        missing("Go")
    folder = made.parent
    env = {"GOCACHE": str(folder / "go-cache"), "GOPATH": str(folder / "go"), "GOFLAGS": "-p=2",
           "GOTOOLCHAIN": "local", "GOTELEMETRY": "off", "CGO_ENABLED": "0"}  # fmt: skip
    run([found[0], "build", "-o", made, source], cwd=folder, env=env, seconds=280)
    return made


def typescript_clients(folder: Path) -> None:
    """Generate the clients for TypeScript and compile them with the programs that use them."""
    contract = ROOT / "openapi.yaml"
    for source in (*CLIENTS.glob("*.ts"), CLIENTS / "tsconfig.json"):
        shutil.copy(source, folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "openapi-ts.config.mjs").write_text(
        f'export default {{ input: "{contract}", '
        'output: { path: "hey_api", importFileExtension: ".js" } };\n',
        "utf-8",
    )
    run([tool("openapi-ts"), "-f", "openapi-ts.config.mjs"], cwd=folder)
    run([tool("openapi-typescript"), contract, "-o", "openapi_typescript.d.ts"], cwd=folder)
    shutil.copy(CLIENTS / "orval.config.js", folder)
    run([tool("orval"), "--config", "orval.config.js"], cwd=folder,
        env={"CONTRACT": str(contract)})  # fmt: skip
    (folder / "node_modules").symlink_to(_NODE)
    run([tool("tsc"), "-p", "."], cwd=folder)


def python_of_clients() -> Path:
    """Return the Python that has what generated clients import."""
    return tool("python")
