"""Members of a cluster: the running ones, their abilities, and whether their settings agree."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from upscaled import __version__, serial
from upscaled.config.settings import Config
from upscaled.errors import ConfigError
from upscaled.jobs import postgres_schema
from upscaled.jobs.postgres_database import Connection

SERVER, WORKER = "server", "worker"
_LOCK = 0x7570736A
"""Key of the lock under which one process at a time joins."""

_SHARED = (
    "cluster.lease_seconds",
    "features.web",
    "limits.max_queue_size",
    "limits.max_queue_per_client",
    "limits.scheduling",
    "storage.delete_after_download",
    "storage.grace_minutes",
    "storage.record_ttl_hours",
    "storage.result_ttl_hours",
    "upscaler.max_crashes",
)
"""Settings that all members must have alike."""
_SHARED_BY_SERVERS = (
    "server.api_prefix",
    "server.auth_token",
    "server.tokens",
    "upscaler.default_model",
    "upscaler.default_scale",
    "webhooks.secret",
    "webhooks.secrets",
)
"""Settings that must also be equal on all API servers."""
_SECRET = frozenset({"server.auth_token", "server.tokens", "webhooks.secret", "webhooks.secrets"})


@dataclass(frozen=True)
class Member:
    """An API server or a worker, as it describes itself."""

    id: str
    role: str
    host: str
    pid: int
    version: str = __version__
    schema: int = 1
    """Version of the database's schema that it knows."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that must agree, as text; secrets as digests."""
    engine: str = ""
    devices: tuple[str, ...] = ()
    gpu: bool = False
    slots: int = 0
    """How many jobs it does at the same time."""
    models: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    """Ids of the jobs that it does."""
    helps: tuple[str, ...] = ()
    """Ids of other workers' jobs of which it does bands."""
    pixel_keys: tuple[str, ...] = ()
    """What the bytes of each of its devices depend on, as a digest."""
    ended: Mapping[str, int] = field(default_factory=dict)
    """Jobs whose end it recorded since its start, by their state."""
    busy_seconds: float = 0.0
    """How long its devices worked since its start, all together."""
    state: str = "ok"
    reason: str | None = None
    """Why it can't upscale."""

    @classmethod
    def of_this_process(cls, name: str, role: str, **facts: Any) -> Member:
        """Return a member that is this process."""
        return cls(
            name, role, socket.gethostname(), os.getpid(), schema=len(postgres_schema.MIGRATIONS),
            **facts,
        )  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A member, and what the database knows of it."""

    member: Member
    silent_seconds: float
    up_seconds: float
    draining: bool


def member_id(config: Config) -> str:
    """Return the name of this process among the members."""
    return config.cluster.name or f"{socket.gethostname()}-{os.getpid()}"


def settings_of(config: Config, role: str) -> dict[str, str]:
    """Return the settings of a member that must agree with those of others."""
    names = _SHARED + (_SHARED_BY_SERVERS if role == SERVER else ())
    found = {}
    for name in names:
        section, key = name.split(".")
        text = str(getattr(getattr(config, section), key))
        if name in _SECRET and text not in {"", "()"}:
            text = f"a secret with the digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"
        found[name] = text
    return found


def check_agreement(member: Member, others: list[Seen]) -> None:
    """Check that a member's settings agree with those of the running members.

    Raises:
        ConfigError: they do not; both values are named.
    """
    for other in others:
        for name, value in member.settings.items():
            theirs = other.member.settings.get(name, value)
            if theirs != value:
                raise ConfigError(
                    f"{name} is {value or 'empty'} here and {theirs or 'empty'} on "
                    f"{other.member.id}, which is running; all machines of a cluster need the "
                    "same value. Change one of them, or stop the other first."
                )


async def check_upgrade(connection: Connection, lease_seconds: float) -> None:
    """Check that every member that is there can use the schema that this program would make.

    Raises:
        ConfigError: one can't; it and both versions are named.
    """
    found = await connection.execute("SELECT to_regclass('members') IS NOT NULL")
    if await found.fetchone() != (True,):
        return
    newest = len(postgres_schema.MIGRATIONS)
    needed = postgres_schema.MIGRATIONS[-1].readable_from
    for other in await present(connection, lease_seconds):
        if other.member.schema < needed:
            raise ConfigError(
                f"This version of upscaled ({__version__}) would change the database's schema to "
                f"version {newest}, and {other.member.id}, which is running, knows version "
                f"{other.member.schema} ({other.member.version}) and needs what is taken away. "
                f"Upgrade or stop it first; members that know version {needed} may stay."
            )


def check_name(other: Seen, silences: list[float]) -> None:
    """Check that a member of our name sent no heartbeat while we watched.

    Args:
        other: the member.
        silences: for how long it had been silent at each check.

    Raises:
        ConfigError: it did.
    """
    if len(silences) > 1 and silences[-1] < silences[-2]:
        raise ConfigError(
            f"cluster.name is {other.member.id} here and on {other.member.host}, where process "
            f"{other.member.pid} is running; each process of a cluster needs a name of its own. "
            "Change one of them, or leave it empty."
        )


async def lock(connection: Connection) -> None:
    """Let no other process join until the end of the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


async def hold_off(connection: Connection) -> None:
    """Let no process join while this connection is open."""
    await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))


async def present(connection: Connection, lease_seconds: float) -> list[Seen]:
    """Return the members that were heard of within a lease, servers first."""
    found = await connection.execute(
        "SELECT document, extract(epoch FROM now() - seen)::float8, "
        "extract(epoch FROM now() - started)::float8, draining FROM members "
        "WHERE seen > now() - make_interval(secs => %s) ORDER BY role, id",
        (lease_seconds,),
    )
    return [
        Seen(serial.decode(document, Member), silent, up, draining)
        for document, silent, up, draining in await found.fetchall()
    ]


async def write(connection: Connection, member: Member, worker: int | None) -> bool:
    """Record a member's heartbeat; return whether it must end after its jobs."""
    found = await connection.execute(
        "INSERT INTO members (id, role, worker, document) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (id) DO UPDATE SET role = excluded.role, worker = excluded.worker, "
        "document = excluded.document, seen = now() RETURNING draining",
        (member.id, member.role, worker, serial.encode(member).decode()),
    )
    row = await found.fetchone()
    return bool(row and row[0])


async def join(connection: Connection, member: Member, worker: int | None) -> None:
    """Record a new member; it replaces an earlier one of the same name."""
    await remove(connection, member.id)
    await write(connection, member, worker)


async def remove(connection: Connection, name: str) -> None:
    """Forget a member that ends."""
    await connection.execute("DELETE FROM members WHERE id = %s", (name,))


async def drain(connection: Connection, name: str) -> bool:
    """Ask a worker to end after its jobs; False if no worker has this name."""
    found = await connection.execute(
        "UPDATE members SET draining = true WHERE id = %s AND role = %s RETURNING id",
        (name, WORKER),
    )
    return await found.fetchone() is not None


async def tidy(connection: Connection, lease_seconds: float) -> None:
    """Forget members that are long gone."""
    await connection.execute(
        "DELETE FROM members WHERE seen < now() - make_interval(secs => %s)",
        (lease_seconds * 20,),
    )
