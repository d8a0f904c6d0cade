"""What handlers find in the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from upscaled.api.connections import Connections
    from upscaled.api.delivery import Deliveries
    from upscaled.api.rates import RateLimit
    from upscaled.clients import Client
    from upscaled.service import Service

SERVICE: web.AppKey[Service] = web.AppKey("service")
PREFIX: web.AppKey[str] = web.AppKey("prefix", str)
"""Path that all endpoints live under, ``/api/v1``."""
DELIVERIES: web.AppKey[Deliveries] = web.AppKey("deliveries")
CLIENT: web.RequestKey[Client] = web.RequestKey("client")
"""Who sent the request."""
CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections")
RATES: web.AppKey[RateLimit] = web.AppKey("rates")
