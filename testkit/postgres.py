"""A real PostgreSQL server in a folder of its own: started, stopped, killed, and always ended."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import psycopg

from testkit.parts import missing
from testkit.paths import ROOT
from testkit.ports import free_port
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.postgres_schema import migrate
from upscaled.workers import launcher

UNPACKED = ROOT / ".tools" / "postgresql"
"""Where scripts/fetch-test-parts unpacks Debian's package."""
_START_SECONDS = 60.0
_USER = "nobody"
"""Who runs the server where root runs the tests: it refuses to run as root."""
_SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",  # tests kill the server, but cut no power
}


@functools.cache
def programs() -> Path:
    """Return the folder with the server and its programs, of the newest version that is there."""
    found = [
        path.parent
        for root in (UNPACKED / "usr", Path("/usr"))
        for path in root.glob("lib/postgresql/*/bin/initdb")
        if (path.parent / "pg_dump").exists()
    ]
    if not found:
        missing("PostgreSQL")
    return max(found, key=lambda path: int(path.parent.name))


class PostgresServer:
    """A server on a free port. It may be started again after it ended.

    Where root runs the tests, `_USER` runs it, in a folder under /tmp that belongs to that user.

    Args:
        folder: where its data goes and stays; None: a folder under /tmp that `close` deletes.
        primary: a running server of which this one is a standby.
        addresses: where else than on this machine's own address it listens; everybody in these
            networks is let in.
        settings: of the server, by name.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        primary: PostgresServer | None = None,
        addresses: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = {**_SETTINGS, **(settings or {})}
        self._settings["listen_addresses"] = ",".join(("127.0.0.1", *addresses))
        self._lets_others_in = bool(addresses)
        self.port = free_port()
        self._primary = primary
        self._user = pwd.getpwnam(_USER) if os.geteuid() == 0 else None
        self._kept = folder is not None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, host: str = "127.0.0.1") -> str:
        """Return the connection string of a database."""
        return f"postgresql://upscaled@{host}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and make its data if there is none; it answers when this returns."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="upscaled-postgres-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        data = self._folder / "data"
        if not (data / "PG_VERSION").exists():
            if self._primary is None:
                made: list[str | Path] = [
                    programs() / "initdb", "--pgdata", data, "--username", "upscaled",
                    "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync",
                ]  # fmt: skip
            else:
                made = [
                    programs() / "pg_basebackup", "--pgdata", data, "--write-recovery-conf",
                    "--checkpoint", "fast", "--no-sync", "--dbname", self._primary.url(),
                ]  # fmt: skip
            done = subprocess.run(
                [*self._as_user(), *made],
                cwd=self._folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            if self._lets_others_in:
                with (data / "pg_hba.conf").open("a", encoding="ascii") as access:
                    access.write("host all all samenet trust\n")
        command: list[str | Path] = [
            programs() / "postgres", "-D", data, "-p", str(self.port),
            *(word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")),
        ]  # fmt: skip
        # Either way the server ends when this process ends, however that happens.
        tied: list[str | Path] = (
            ["setpriv", "--pdeathsig", "KILL", *self._as_user()[1:]]
            if self._user
            else [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid())]
        )
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [*tied, *command], stdout=log, stderr=log, cwd=self._folder,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log()) from None
                time.sleep(0.05)
            else:
                return

    @property
    def pid(self) -> int:
        """The number of the server's process, which runs."""
        assert self._process is not None
        return self._process.pid

    def promote(self) -> None:
        """Make a standby a primary; it takes writes when this returns."""
        self.execute("SELECT pg_promote()")

    def _as_user(self) -> list[str | Path]:
        if self._user is None:
            return []
        return ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}",
                "--clear-groups"]  # fmt: skip

    def log(self) -> str:
        """Return what the server has said."""
        return (self._folder / "log.txt").read_text("utf-8") if self._folder else ""

    def stop(self) -> None:
        """Stop the server as a restart does: sessions are ended, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a power cut does, and its sessions with it."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self._process.pid)
            server.suspend()  # else it would start others
            for one in (server, *server.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the server and delete its folder."""
        self.stop()
        if self._folder is not None and not self._kept:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make a database for the length of the block; yield its URL."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.asynccontextmanager
    async def opened_database(self) -> AsyncIterator[Database]:
        """Make a database with the product's tables for the length of the block, and open it."""
        with self.database() as url:
            database = Database(url)
            await database.open()
            try:
                await database.run(migrate)
                yield database
            finally:
                await database.close()

    def execute(self, statement: str, url: str | None = None) -> Sequence[tuple[object, ...]]:
        """Run a statement outside of any transaction; return its rows."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
