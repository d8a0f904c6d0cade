"""How requests are answered: counters by endpoint, status and reason of refusal."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter

_CACHED = 4096
"""Combinations of endpoint, method and status; there are a few hundred."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counts responses.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._responses = Counter(
            "upscaled_http_responses",
            "Responses by method, endpoint (`other`: there is none at the path) and status.",
            ("method", "endpoint", "status"),
            registry=registry,
        )
        self._refusals = Counter(
            "upscaled_refusals",
            "Requests that were refused, by the code of the error.",
            ("code",),
            registry=registry,
        )
        self._counted: dict[tuple[str, str, int], Callable[[], None]] = {}

    def responded(self, method: str, endpoint: str, status: int) -> None:
        """Count a response.

        Args:
            method: of the request.
            endpoint: path of the endpoint with names for its variable parts; bounded in number.
            status: of the response.
        """
        key = (method, endpoint, status)
        count = self._counted.get(key)
        if count is None:
            known = method if method in _METHODS else "other"
            count = self._responses.labels(known, endpoint, str(status)).inc
            if len(self._counted) < _CACHED:
                self._counted[key] = count
        count()

    def refused(self, code: str) -> None:
        """Count a request that was refused."""
        self._refusals.labels(code).inc()
