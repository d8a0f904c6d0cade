"""The modes in which the tests of the API run: a server on one machine, and one of a cluster."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

ALONE, CLUSTER = "alone", "cluster"

_NO_JOB = "what it tests comes before the first look at a job, and is the same code"
_NO_CACHE = "a cluster joins no jobs and caches no results"
ONLY_ALONE: dict[str, str] = {
    "test_api_page": _NO_JOB,
    "test_archive_webhooks": "a cluster takes no archives",
    "test_archives": "a cluster takes no archives (test_errors tries it)",
    "test_auth": _NO_JOB,
    "test_connections": _NO_JOB,
    "test_docs": _NO_JOB,
    "test_download.test_a_shortage_of_open_files_delays_a_download_and_is_no_fault": (
        "it breaks the opening of one machine's files"
    ),
    "test_errors.test_a_full_queue_still_answers_from_the_cache": _NO_CACHE,
    "test_estimate.test_after_a_job_the_estimate_is_a_measured_one": (
        "API servers of a cluster hear what workers measured a minute later"
    ),
    "test_events.test_the_life_of_a_job_is_a_line_an_event": (
        "a worker prepares a picture before it begins the job"
    ),
    "test_grace.test_a_restart_continues_the_grace_period": (
        "it ends with the server of a cluster (docs/scaling.md)"
    ),
    "test_links": "it starts its own server, on one machine",
    "test_model_imports": "models are each machine's own",
    "test_model_speed": "speeds are each machine's own",
    "test_multipart_fuzz": _NO_JOB,
    "test_origins": _NO_JOB,
    "test_page": _NO_JOB,
    "test_repeated_requests": _NO_CACHE,
    "test_routes": _NO_JOB,
    "test_schemathesis": "it takes minutes, and its findings are about requests",
    "test_slow_callers": _NO_JOB,
    "test_try_it_out": _NO_JOB,
    "test_webhooks.test_jobs_that_share_work_are_each_told": _NO_CACHE,
}
"""Modules and tests that run with one machine only, and why."""


def of(module: str, test: str) -> list[str]:
    """Return the modes in which a test runs.

    Args:
        module: its module, with packages.
        test: its function.
    """
    name = module.rpartition(".")[2]
    once = name in ONLY_ALONE or f"{name}.{test}" in ONLY_ALONE
    return [ALONE] if once else [ALONE, CLUSTER]


def settings(
    request: pytest.FixtureRequest, folder: Path, closing: ExitStack, *, cluster: bool | None = None
) -> dict[str, str]:
    """Return what a server's settings say of its mode.

    Args:
        request: of a fixture; the parameter is the mode, unless ``cluster`` says it.
        folder: the server's; blobs go there too.
        closing: closed after the server was stopped: it drops the database.
        cluster: whether the server is one of a cluster.
    """
    if cluster is None:
        cluster = request.param == CLUSTER
    if not cluster:
        return {}
    postgres = request.getfixturevalue("postgres")
    return {
        "cluster__database_url": closing.enter_context(postgres.database()),
        "cluster__blobs": str(folder / "blobs"),
    }
