"""Members of two versions in one cluster: what the schema's steps allow, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testkit.postgres import PostgresServer
from upscaled import __version__
from upscaled.cluster import members
from upscaled.cluster.link import Link
from upscaled.cluster.members import WORKER, Member
from upscaled.config.settings import Config
from upscaled.config.sources import load
from upscaled.errors import ConfigError
from upscaled.jobs import postgres_schema
from upscaled.jobs.postgres_schema import Migration

OURS = postgres_schema.MIGRATIONS
KNOWN = len(OURS)
EXPANDED = (*OURS, Migration("ALTER TABLE jobs ADD COLUMN more TEXT", readable_from=KNOWN))
CONTRACTED = (
    *EXPANDED,
    Migration("ALTER TABLE jobs DROP COLUMN worker", readable_from=KNOWN + 1),
)


@pytest.fixture
def config(postgres: PostgresServer, tmp_path: Path) -> Iterator[Config]:
    with postgres.database() as url:
        yield load(
            environ={},
            flags={"cluster.database_url": url, "cluster.blobs": str(tmp_path / "blobs")},
        )


async def joined(config: Config, member: Member) -> None:
    link = Link(config)
    await link.open()
    await link.database.run(lambda c: members.join(c, member, None))
    await link.close()


async def opened(config: Config) -> None:
    """Connect as a program that starts."""
    link = Link(config)
    await link.open()
    await link.close()


async def test_members_are_upgraded_one_after_the_other_and_a_step_too_far_is_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Member.of_this_process("old-worker", WORKER)
    assert (old.schema, old.version) == (KNOWN, __version__)
    await joined(config, old)

    monkeypatch.setattr(postgres_schema, "MIGRATIONS", EXPANDED)
    await opened(config)  # the next version expands beside a member of this one
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", OURS)
    await opened(config)  # which may be started again meanwhile

    monkeypatch.setattr(postgres_schema, "MIGRATIONS", CONTRACTED)
    with pytest.raises(ConfigError) as refused:
        await opened(config)
    sentence = refused.value.message
    assert f"schema to version {KNOWN + 2}, and old-worker, which is running, knows" in sentence
    assert f"version {KNOWN} ({__version__})" in sentence
    assert sentence.endswith(f"stop it first; members that know version {KNOWN + 1} may stay.")

    await joined_as(config, replace(old, schema=KNOWN + 1), monkeypatch)
    await opened(config)  # the worker was upgraded: now the column may go
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", OURS)
    with pytest.raises(
        ConfigError,
        match=rf"version {KNOWN + 2} of the schema, written by a later .* this one knows {KNOWN} ",
    ):
        await opened(config)


async def joined_as(config: Config, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a member of the version in between join; afterwards the latest version starts."""
    latest = postgres_schema.MIGRATIONS
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", EXPANDED)
    await joined(config, member)
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", latest)


def test_no_step_of_the_schema_takes_away_what_the_version_before_it_needs() -> None:
    for number, step in enumerate(OURS[1:], start=2):
        assert step.readable_from < number, f"step {number} has to wait for the next version"
    needs = [step.readable_from for step in OURS]
    assert needs == sorted(needs), "a program that can't use a step can't use those after it"
