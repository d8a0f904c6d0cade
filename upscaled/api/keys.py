"""What handlers find in the application and in a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from upscaled.api.connections import Connections
    from upscaled.api.delivery import Deliveries
    from upscaled.api.rate_limit import RateLimit
    from upscaled.api.status import Descriptions
    from upscaled.clients import Client
    from upscaled.service.service import Service

SERVICE: web.AppKey[Service] = web.AppKey("service")
PREFIX: web.AppKey[str] = web.AppKey("prefix", str)
"""Path that all endpoints live under, ``/api/v1``."""
CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections")
DELIVERIES: web.AppKey[Deliveries] = web.AppKey("deliveries")
DESCRIPTIONS: web.AppKey[Descriptions] = web.AppKey("descriptions")
RATES: web.AppKey[RateLimit] = web.AppKey("rates")


@dataclass(slots=True)
class Call:
    """What the gate finds out about a request."""

    request_id: str
    client: Client
    """Who sent it; nobody until that is known."""
    origin: str | None
    """The page of elsewhere that sent it and may read the answer."""


CALL: web.RequestKey[Call] = web.RequestKey("call")
