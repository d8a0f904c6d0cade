"""The server: its models and its health."""

from __future__ import annotations

import re
import time

from aiohttp import web

from upscaled import __version__
from upscaled.api.context import SERVICE
from upscaled.api.query import query_of
from upscaled.api.responses import json_response
from upscaled.errors import BadRequestError, UnknownModelError
from upscaled.models.card import UNKNOWN_LICENSE
from upscaled.models.catalog import Model
from upscaled.service.service import Service


def _wanted_scale(request: web.Request) -> int | None:
    """Return the query's ``scale``, None if it has none.

    Raises:
        BadRequestError: it is not a scale, or there are several.
    """
    values = query_of(request).getall("scale", [])
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch("[1-9][0-9]?", values[0]):
        shown = ", ".join(values)[:64]
        raise BadRequestError(f"scale is {shown!r}; allowed is one whole number from 1 to 99.")
    return int(values[0])


async def models(request: web.Request) -> web.Response:
    """``GET /models``: the installed models, all or those with a native scale."""
    scale = _wanted_scale(request)
    service = request.app[SERVICE]
    await service.models.rescan()
    listed = [
        {**_described(model), "speed": await _speed_of(service, model)}
        for model in service.models.models
        if scale is None or scale in model.supported_scales
    ]
    return json_response({"version": __version__, "models": listed})


def _described(model: Model) -> dict[str, object]:
    """Return a model as the list shows it; facts that are not known are left out."""
    card = model.card
    facts = {
        "author": card.author,
        "source": card.source,
        "architecture": card.architecture,
        "parameters": card.parameters,
    }
    return {
        "name": model.name,
        "description": model.description,
        "supported_scales": list(model.supported_scales),
        "license": card.license or UNKNOWN_LICENSE,
        **{key: value for key, value in facts.items() if value is not None},
    }


async def _speed_of(service: Service, model: Model) -> list[dict[str, object]]:
    """Return the time of each network for a megapixel; none if a file of it has just gone."""
    try:
        speeds = await service.speed_of(model)
    except UnknownModelError:
        return []
    return [
        {
            "scale": speed.scale,
            "seconds_per_megapixel": float(f"{speed.seconds_per_megapixel:.3g}"),
            "measured": speed.measured,
        }
        for speed in speeds
    ]


async def health(request: web.Request) -> web.Response:
    """``GET /health``: 200 if pictures can be upscaled here, else 503."""
    told = await request.app[SERVICE].reports.health()
    content = {"status": told["status"], "version": __version__, "time": int(time.time())}
    return json_response({**content, **told}, status=200 if told["status"] == "ok" else 503)
