"""Real callers, plain and generated, upscale a picture: directly and through each proxy."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from testkit import generators
from testkit.generators import CLIENTS, SETTINGS, go_program, program, run, tool
from testkit.paths import ROOT
from testkit.proxies import KINDS, Proxy
from testkit.running import Server, a_picture

FRONTS = pytest.mark.parametrize("front", ["direct", *KINDS])
PLAIN: dict[str, Callable[[], list[str | Path]]] = {
    "curl": lambda: ["sh", CLIENTS / "curl.sh"],
    "wget": lambda: [program("wget") and "sh", CLIENTS / "wget.sh"],
    "node": lambda: [program("node"), CLIENTS / "fetch.mjs"],
    "php": lambda: [program("php"), CLIENTS / "client.php"],
    "java": lambda: [program("javac") and program("java"), CLIENTS / "Client.java"],
    "go": lambda: [],  # compiled, see `plain`
}
TYPESCRIPT = ("hey_api", "openapi_fetch", "orval")
PYTHON = ("openapi_python_client", "openapi_generator")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Generate clients, each once; return their folder."""
    done: dict[str, Path] = {}

    def get(name: str) -> Path:
        kind = "typescript" if name in TYPESCRIPT else name
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            if kind == "typescript":
                generators.typescript_clients(folder)
            else:
                folder = folder / "client"
                generators.python_client(name, folder)
            done[kind] = folder
        return done[kind]

    return get


@pytest.fixture
def base(server: Server, proxy: Callable[[str], Proxy]) -> Callable[[str], str]:
    """Return the address of the API, directly or through a proxy, which strips a path."""

    def get(front: str) -> str:
        return server.url if front == "direct" else f"{proxy(front).path_root}/api/v1"

    return get


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(a_picture())
    return path


def check(result: Path) -> None:
    with Image.open(result) as image:
        image.load()
        assert image.size == (48, 32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str | Path]]:
    """Return the command of a plain client."""

    @functools.cache
    def compiled() -> Path:
        return go_program(CLIENTS / "client.go", tmp_path_factory.mktemp("go") / "client")

    return lambda name: [compiled()] if name == "go" else PLAIN[name]()


@pytest.mark.timeout(400)  # the first one compiles Go's standard library
@FRONTS
@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_client_gets_its_picture(
    base: Callable[[str], str], plain: Callable[[str], list[str | Path]], name: str, front: str,
    picture: Path, tmp_path: Path,
) -> None:  # fmt: skip
    result = tmp_path / "result.png"
    command = await asyncio.to_thread(plain, name)
    await asyncio.to_thread(run, [*command, base(front), picture, result])
    check(result)


@FRONTS
@pytest.mark.parametrize("name", PYTHON)
async def test_a_generated_python_client_gets_its_picture(
    base: Callable[[str], str], made: Callable[[str], Path], name: str, front: str,
    picture: Path, tmp_path: Path,
) -> None:  # fmt: skip
    result = tmp_path / "result.png"
    command: list[str | Path] = [
        tool("python"),
        CLIENTS / f"{name}.py",
        base(front),
        picture,
        result,
    ]
    env = {"PYTHONPATH": str(made(name))}
    said = await asyncio.to_thread(run, command, env=env)
    assert said.split() == ["CompletedJob", "48", "32"]
    check(result)


@FRONTS
@pytest.mark.parametrize("name", TYPESCRIPT)
async def test_a_generated_typescript_client_gets_its_picture(
    base: Callable[[str], str], made: Callable[[str], Path], name: str, front: str,
    picture: Path, tmp_path: Path,
) -> None:  # fmt: skip
    result = tmp_path / "result.png"
    command: list[str | Path] = [
        program("node"),
        made(name) / "out" / f"{name}.js",
        base(front),
        picture,
        result,
    ]
    said = await asyncio.to_thread(run, command)
    assert said.split() == ["completed", "48", "32"]
    check(result)


@pytest.mark.parametrize("language", ["go", "java", "php", "typescript-fetch"])
def test_openapi_generator_makes_clients_of_other_languages(language: str, tmp_path: Path) -> None:
    said = generators.openapi_generator(language, tmp_path)
    assert "COLLISION" not in said and "ERROR" not in said, said
    assert len([path for path in tmp_path.rglob("*") if "completed" in path.name.lower()]) > 0


def test_the_python_generators_leave_nothing_out(made: Callable[[str], Path]) -> None:
    operations = set()
    for line in (ROOT / "openapi.yaml").read_text("utf-8").splitlines():
        if line.startswith("      operationId: "):
            operations.add(line.split()[-1].lower())
    operations -= {"jobevent", "archiveevent"}  # what a receiver of webhooks serves
    folder = made("openapi_python_client") / "upscaled_client" / "api"
    found = {path.stem.replace("_", "") for path in folder.rglob("*.py")}
    assert operations <= found


def test_redocly_finds_nothing() -> None:
    said = run([tool("redocly"), "lint", "--config", SETTINGS / "redocly.yaml",
                ROOT / "openapi.yaml"])  # fmt: skip
    assert "was generated by" not in said, said  # a warning


def test_spectral_finds_nothing() -> None:
    run([tool("spectral"), "lint", "--fail-severity=hint", "--ruleset", SETTINGS / ".spectral.yaml",
         ROOT / "openapi.yaml"])  # fmt: skip
