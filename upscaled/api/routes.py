"""The table of endpoints: one row for each method and path."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from aiohttp import web

from upscaled.api import (
    archives,
    docs,
    download,
    estimate,
    events,
    job_list,
    jobs,
    limits,
    models,
    preview,
    results_archive,
    resumable,
    server_info,
    submit,
    views,
    webhooks,
)
from upscaled.api.responses import Handler
from upscaled.config.settings import FeatureSettings
from upscaled.errors import BadRequestError


@dataclass(frozen=True)
class Route:
    """An endpoint."""

    method: str
    """A ``GET`` route answers ``HEAD`` too."""
    path: str
    """Below ``server.api_prefix``; ``{name}`` matches one segment."""
    handler: Handler
    query: frozenset[str] | None = frozenset()
    """The query parameters that it takes; None: any, and it ignores them."""
    public: bool = False
    """Needs no token, because it shows nothing that belongs to a caller."""
    feature: str | None = None
    """The setting in ``features`` that switches it on; None: it is always on."""


_ARCHIVES = "archives"

ROUTES = (
    Route("POST", "/upscale", submit.submit, query=frozenset(submit.FIELD_NAMES)),
    Route("PUT", "/upscale", submit.submit_file, query=frozenset(submit.FIELD_NAMES_OF_FILE)),
    Route(
        "PUT",
        "/upscale/{filename}",
        submit.submit_file,
        query=frozenset(submit.FIELD_NAMES_OF_FILE),
    ),
    Route("POST", "/uploads", resumable.begin, query=resumable.QUERY),
    Route("GET", "/uploads/{upload_id}", resumable.state),
    Route("PATCH", "/uploads/{upload_id}", resumable.append),
    Route("DELETE", "/uploads/{upload_id}", resumable.drop),
    Route("POST", "/estimate", estimate.estimate, query=frozenset(estimate.FIELD_NAMES)),
    Route("GET", "/status/{job_id}", jobs.status, query=frozenset({"wait"})),
    Route("GET", "/download/{job_id}", download.download, query=download.QUERY),
    Route("POST", "/cancel/{job_id}", jobs.cancel),
    Route("GET", "/jobs", job_list.jobs, query=job_list.QUERY, feature="job_lists"),
    Route("DELETE", "/jobs/{job_id}", job_list.delete),
    Route("GET", "/events", events.of_all, events.QUERY, feature="job_lists"),
    Route("GET", "/events/{job_id}", events.of_job),
    Route("GET", "/receipt/{job_id}", jobs.receipt),
    Route("GET", "/webhooks/{job_id}", webhooks.deliveries),
    Route("POST", "/preview", preview.preview, query=frozenset(preview.FIELD_NAMES)),
    Route("POST", "/jobs/{job_id}/retry", submit.retry),
    Route("GET", "/results", results_archive.results, query=results_archive.QUERY),
    Route("POST", "/archives", archives.begin, frozenset(archives.FIELD_NAMES), feature=_ARCHIVES),
    Route("GET", "/archives", archives.listing, archives.PAGED, feature=_ARCHIVES),
    Route("GET", "/archives/{archive_id}", archives.status, frozenset({"wait"}), feature=_ARCHIVES),
    Route("DELETE", "/archives/{archive_id}", archives.delete, feature=_ARCHIVES),
    Route("GET", "/archives/{archive_id}/pages", archives.pages, archives.PAGED, feature=_ARCHIVES),
    Route("GET", "/archives/{archive_id}/events", archives.events, feature=_ARCHIVES),
    Route(
        "GET",
        "/archives/{archive_id}/webhooks",
        webhooks.deliveries_of_archive,
        feature=_ARCHIVES,
    ),
    Route(
        "GET",
        "/archives/{archive_id}/download",
        archives.download,
        download.QUERY,
        feature=_ARCHIVES,
    ),
    Route("GET", "/thumbnail/{job_id}", views.thumbnail, query=frozenset({"side"})),
    Route("GET", "/tiles/{job_id}", views.tiles),
    Route("GET", "/tiles/{job_id}/{side}/{level}/{column}/{row}", views.tile),
    Route("GET", "/limits", limits.limits, public=True),
    Route("GET", "/models", models.models, query=frozenset({"scale"})),
    Route("POST", "/models", models.begin_import, query=frozenset(models.FIELD_NAMES)),
    Route("GET", "/models/imports/{import_id}", models.import_status, query=frozenset({"wait"})),
    Route("DELETE", "/models/{name}", models.delete),
    Route("GET", "/health", server_info.health, public=True),
    Route("GET", "/openapi.yaml", docs.openapi, public=True),
    Route("GET", "/docs", docs.page, query=None, public=True, feature="docs"),
    Route("GET", "/docs/", docs.without_slash, query=None, public=True, feature="docs"),
    Route("GET", "/docs/{name}", docs.asset, query=None, public=True, feature="docs"),
)


def enabled(features: FeatureSettings) -> Iterator[Route]:
    """Yield the routes that are switched on."""
    for route in ROUTES:
        if route.feature is None or getattr(features, route.feature):
            yield route


_BY_HANDLER = {route.handler: route for route in ROUTES}


def check_query(request: web.Request) -> None:
    """Refuse query parameters that the request's endpoint does not take.

    Raises:
        BadRequestError: there is one; the message lists those that are allowed.
    """
    route = _BY_HANDLER.get(request.match_info.handler)
    if route is None or route.query is None:  # None: no such path or method
        return
    for name in request.query:
        if name not in route.query:
            raise BadRequestError(
                f"There is no query parameter {name[:64]!r} here; {_parameters(route.query)}."
            )


def _parameters(names: Collection[str]) -> str:
    if not names:
        return "this address takes none"
    verb = "parameter is" if len(names) == 1 else "parameters are"
    return f"the {verb} {', '.join(sorted(names))}"
