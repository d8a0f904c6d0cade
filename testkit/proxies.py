"""Real reverse proxies, configured with the blocks of docs/proxies.md."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testkit.parts import missing
from testkit.paths import ROOT
from testkit.ports import free_port
from upscaled.workers import launcher

UNPACKED = ROOT / ".tools" / "servers"
"""Where scripts/fetch-test-parts unpacks Debian packages that would start a service."""
PYTHON_PROGRAMS = ROOT / ".tools" / "generators" / "python" / "bin"
"""Where it installs programs that come as Python packages."""
_READY_SECONDS = 60
_PATH = "/upscaled"


@dataclass(frozen=True)
class Kind:
    """How one proxy is started in front of a server."""

    heading: str
    """The heading in docs/proxies.md."""
    program: str
    name_address: str
    """What the block with a host name of its own listens on; replaced by an address of ours.
    Empty: the command says it."""
    path_address: str
    """The same for the block under a path."""
    listen: str
    """What replaces it, with ``{port}``."""
    prelude: str
    """What stands before the blocks, with ``{folder}``, ``{ports}`` and ``{modules}``."""
    command: Sequence[str]
    """Arguments of the program, with ``{folder}``, ``{config}``, ``{modules}`` and, where each
    block is a configuration of its own, ``{port}``."""
    closing: str = ""
    apart: bool = False
    """Whether each block is a configuration of its own."""
    module_folder: str = ""
    loads_later: bool = False
    """Whether it accepts connections before it has read its configuration, and answers 404."""
    suffix: str = ""
    """Of a configuration's name, where the program tells its kind by that."""
    as_root: str = ""
    """What the prelude needs besides when root starts it."""


_APACHE_MODULES = ("mpm_event", "authz_core", "proxy", "proxy_http", "headers")

KINDS: Mapping[str, Kind] = {
    "nginx": Kind(
        "nginx", "nginx", "listen 80;", "listen 80;", "listen 127.0.0.1:{port};",
        "daemon off; master_process off; pid {folder}/pid; worker_processes 1; events {{}}\n"
        "http {{ access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; "
        "fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n",
        ("-e", "stderr", "-p", "{folder}", "-c", "{config}"),
        closing="}\n",
        as_root="user root;\n",
    ),
    "caddy": Kind(
        "Caddy", "caddy", "photos.example {", "home.example {", "http://127.0.0.1:{port} {{",
        "{{\n admin off\n auto_https off\n storage file_system {folder}\n}}\n",
        ("run", "--adapter", "caddyfile", "--config", "{config}"),
    ),
    "haproxy": Kind(
        "HAProxy", "haproxy", "bind :80", "bind :80", "bind 127.0.0.1:{port}",
        "global\n    maxconn 100\n",
        ("-db", "-f", "{config}"),
    ),
    "apache": Kind(
        "Apache", "apache2",
        "<VirtualHost *:80>", "<VirtualHost *:80>", "<VirtualHost 127.0.0.1:{port}>",
        "ServerRoot {folder}\nServerName localhost\nDefaultRuntimeDir {folder}\n"
        "PidFile {folder}/pid\nErrorLog /dev/stderr\n{ports}\n"
        + "".join(
            f"LoadModule {name}_module {{modules}}/mod_{name}.so\n" for name in _APACHE_MODULES
        ),
        ("-X", "-f", "{config}"),
        module_folder="lib/apache2/modules",
        as_root="User www-data\nGroup www-data\n",
    ),
    "lighttpd": Kind(
        "lighttpd", "lighttpd", "server.port = 80\n", "server.port = 80\n",
        'server.port = {port}\nserver.bind = "127.0.0.1"\n',
        'server.document-root = "{folder}"\nserver.upload-dirs = ("{folder}")\n',
        ("-D", "-f", "{config}", "-m", "{modules}"),
        apart=True,
        module_folder="lib/lighttpd",
    ),
    "varnish": Kind(
        "Varnish", "varnishd", "", "", "", "",
        ("-F", "-a", "127.0.0.1:{port}", "-f", "{config}", "-n", "{folder}/{port}",
         "-s", "malloc,64m", "-p", "vmod_path={modules}", "-j", "none"),
        apart=True,
        module_folder="lib/varnish/vmods",
    ),
    "traefik": Kind(
        "Traefik", "traefik", "Host(`photos.example`)", "Host(`home.example`)",
        "HostRegexp(`.`)", "",
        ("--entryPoints.web.address=127.0.0.1:{port}", "--providers.file.filename={config}",
         "--entryPoints.web.transport.respondingTimeouts.readTimeout=0"),
        apart=True,
        suffix=".yaml",
        loads_later=True,
    ),
}  # fmt: skip


def blocks(heading: str) -> list[str]:
    """Return the code blocks below a heading of docs/proxies.md."""
    page = (ROOT / "docs" / "proxies.md").read_text("utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


def server_program(name: str) -> Path:
    """Return a program that scripts/fetch-test-parts gets; skip the test if it is missing."""
    for folder in (UNPACKED / "usr/sbin", UNPACKED / "usr/bin", PYTHON_PROGRAMS):
        if (folder / name).is_file():
            return folder / name
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return Path(found) if found else missing(name)


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is not once in the block:\n{text}"
    return text.replace(old, new)


class Proxy:
    """A proxy in front of a server on 127.0.0.1, from `start` to `stop`.

    Args:
        name: which of `KINDS`.
        server_port: the server's port.
        folder: an empty folder for its configuration and temporary files.
    """

    def __init__(self, name: str, server_port: int, folder: Path) -> None:
        self.name = name
        self._kind = KINDS[name]
        self._folder = folder
        self._server_port = server_port
        self._log = folder / "log.txt"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        """Serves the server under a host name of its own."""
        self.path_port = free_port()
        """Serves it under `_PATH`."""

    @property
    def root(self) -> str:
        """The server's public root."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def path_root(self) -> str:
        """The server's public root where a path is stripped."""
        return f"http://127.0.0.1:{self.path_port}{_PATH}"

    def start(self) -> None:
        """Start it and wait until it accepts connections; skip the test if it is missing."""
        program = server_program(self._kind.program)
        named, below = blocks(self._kind.heading)
        parts = [
            self._block(named, self._kind.name_address, self.port),
            self._block(below, self._kind.path_address, self.path_port),
        ]
        ports = (self.port, self.path_port)
        for port, part in zip(ports, parts if self._kind.apart else ["".join(parts)], strict=False):
            self._run(program, part, port)
        for port in ports:
            self._wait_for(port)

    def _block(self, text: str, address: str, port: int) -> str:
        if address:
            text = _replaced(text, address, self._kind.listen.format(port=port))
        for old in ("127.0.0.1:8089", '"port" => 8089', '.port = "8089"'):
            if old in text:
                text = _replaced(text, old, old.replace("8089", str(self._server_port)))
        assert str(self._server_port) in text, text
        return text

    def _run(self, program: Path, text: str, port: int) -> None:
        config = self._folder / f"config-{port}{self._kind.suffix}"
        prefix = UNPACKED / "usr" if program.is_relative_to(UNPACKED) else Path("/usr")
        facts = {
            "folder": self._folder,
            "config": config,
            "port": port,
            "modules": prefix / self._kind.module_folder,
            "ports": f"Listen 127.0.0.1:{self.port}\nListen 127.0.0.1:{self.path_port}",
        }
        prelude = self._kind.as_root if os.geteuid() == 0 else ""
        prelude += self._kind.prelude.format(**facts)
        config.write_text(prelude + text + self._kind.closing, "utf-8")
        arguments = [argument.format(**facts) for argument in self._kind.command]
        with self._log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    # The launcher ends it when the tests end, however that happens.
                    [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), program,
                     *arguments],
                    stdout=log, stderr=log, cwd=self._folder,
                    env={**os.environ, "HOME": str(self._folder)},
                )
            )  # fmt: skip

    def _wait_for(self, port: int) -> None:
        """Wait until a port accepts connections: these programs do not tell when they are ready."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not run:\n{self._log.read_text('utf-8')}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
                continue
            if not self._kind.loads_later or self._passes_on(port):
                return
            time.sleep(0.05)

    def _passes_on(self, port: int) -> bool:
        """Tell whether a request reaches the server, which all but an answer of 404 shows."""
        path = _PATH if port == self.path_port else ""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", f"{path}/api/v1/health")
            return connection.getresponse().status != http.HTTPStatus.NOT_FOUND
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
