"""What handlers find in the application and in a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from upscaled.api.broadcasts import Broadcasts
    from upscaled.api.connections import Connections
    from upscaled.api.event_streams import EventStreams
    from upscaled.api.links import LinkBase
    from upscaled.api.rate_limit import RateLimit
    from upscaled.api.sending import Sending
    from upscaled.api.status_json import StatusRenderer
    from upscaled.api.transfers import TransferTracker
    from upscaled.callers import Caller
    from upscaled.metrics.metrics import Metrics
    from upscaled.service.service import Service

SERVICE: web.AppKey[Service] = web.AppKey("service")
METRICS: web.AppKey[Metrics | None] = web.AppKey("metrics")
CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections")
TRANSFERS: web.AppKey[TransferTracker] = web.AppKey("delivery_tracker")
BROADCASTS: web.AppKey[Broadcasts] = web.AppKey("broadcasts")
EVENT_STREAMS: web.AppKey[EventStreams] = web.AppKey("event_streams")
LINK_BASE: web.AppKey[LinkBase] = web.AppKey("link_base")
PREVIEW_RATE: web.AppKey[RateLimit] = web.AppKey("preview_rate")
SENDING: web.AppKey[Sending] = web.AppKey("sending")
STATUS_RENDERER: web.AppKey[StatusRenderer] = web.AppKey("status_renderer")
SUBMISSION_RATE: web.AppKey[RateLimit] = web.AppKey("submission_rate")


@dataclass(slots=True)
class RequestContext:
    """What the middleware knows about a request."""

    request_id: str
    client: Caller
    """The caller; has empty fields until the caller is authenticated."""
    cors_origin: str | None
    """Origin of the web page that may read the response; None: no page of another site."""
    rate_headers: Mapping[str, str] | None = None
    """What is left of the caller's rate, for the response; None: the request does not count."""


CONTEXT: web.RequestKey[RequestContext] = web.RequestKey("context")
