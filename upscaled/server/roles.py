"""What a process is: a service on one machine, an API server of a cluster, or a worker."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from upscaled.config.settings import Config
from upscaled.errors import ConfigError
from upscaled.service.service import Service

if TYPE_CHECKING:
    from upscaled.cluster.worker_process import WorkerProcess

_PACKAGES = ("psycopg", "psycopg_pool", "procrastinate", "obstore")


def make_service(config: Config, *, works: bool = False) -> Service:
    """Return the service that the settings ask for.

    Args:
        config: the settings.
        works: an API server of a cluster does jobs too.

    Raises:
        ConfigError: the settings contradict each other, or a package is missing.
    """
    if not config.cluster.used:
        if works:
            raise ConfigError(
                "--work is for an API server of a cluster, and cluster.database_url is empty; "
                "without a cluster `upscaled serve` does its jobs itself."
            )
        return Service(config)
    check_cluster(config)
    from upscaled.cluster.service import ClusterService  # noqa: PLC0415 - needs the packages

    return ClusterService(config, works=works)


def make_worker(config: Config) -> WorkerProcess:
    """Return the worker that the settings ask for.

    Raises:
        ConfigError: the settings contradict each other, or a package is missing.
    """
    check_cluster(config)
    from upscaled.cluster.worker_process import WorkerProcess  # noqa: PLC0415 - likewise

    return WorkerProcess(config)


def check_cluster(config: Config) -> None:
    """Check that the settings describe a cluster.

    Raises:
        ConfigError: they name none, contradict each other, or a package is missing.
    """
    if not config.cluster.used:
        raise ConfigError(
            "This command is for a cluster, and cluster.database_url is empty; name the PostgreSQL "
            "database and the blobs (docs/scaling.md)."
        )
    database, blobs = config.cluster.database_url, config.cluster.blobs
    if not database or not blobs:
        there, missing = ("database_url", "blobs") if database else ("blobs", "database_url")
        raise ConfigError(
            f"cluster.{there} is set and cluster.{missing} is empty; a cluster needs both, one "
            "machine neither."
        )
    if config.storage.result_cache_mb:
        raise ConfigError(
            f"storage.result_cache_mb is {config.storage.result_cache_mb} and cluster.database_url "
            "is set; in a cluster it must be 0."
        )
    missing_packages = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing_packages:
        raise ConfigError(
            f"A cluster needs {', '.join(missing_packages)}, which is not installed; type: pip "
            "install 'upscaled[cluster]'"
        )
