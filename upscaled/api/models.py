"""Models: the list, and for administrators importing and deleting."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from upscaled import __version__
from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.connections import wait_while_connected
from upscaled.api.context import LINK_BASE, SERVICE
from upscaled.api.form_reader import MODEL
from upscaled.api.query import query_of
from upscaled.api.responses import json_response
from upscaled.api.waiting import NO_WAIT, Wait, parse_wait, preferred_wait, wait_of
from upscaled.errors import BadRequestError, ForbiddenChangeError, UnknownModelError
from upscaled.models.card import UNKNOWN_LICENSE
from upscaled.models.catalog import Model
from upscaled.service import model_imports
from upscaled.service.import_records import ImportState, ImportStatus
from upscaled.service.service import Service

FIELD_NAMES = (*model_imports.FIELD_NAMES, "wait")


def _may_import(request: web.Request) -> bool:
    config = request.app[SERVICE].config
    is_main = bool(config.server.auth_token) and not client_of(request).owner
    return config.features.model_imports and is_main


def _check_administrator(request: web.Request) -> None:
    """Refuse callers who may not add or delete models.

    Raises:
        ForbiddenChangeError: the caller is one of them.
    """
    if not _may_import(request):
        why = (
            "needs the token of server.auth_token"
            if request.app[SERVICE].config.features.model_imports
            else "is switched off (features.model_imports)"
        )
        raise ForbiddenChangeError(f"Importing and deleting models {why}.")


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
        raise BadRequestError(f"scale is {shown!r}; it must be one whole number between 1 and 99.")
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
    may = {"may_import": True} if _may_import(request) else {}
    return json_response({"version": __version__, "models": listed, **may})


def _described(model: Model) -> dict[str, object]:
    """Return a model as the list shows it; facts that are not known are left out."""
    card = model.card
    facts = {
        "author": card.author,
        "source": card.source,
        "architecture": card.architecture,
        "parameters": card.parameters,
        "imported": model.imported or None,
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


async def begin_import(request: web.Request) -> web.Response:
    """``POST /models``: convert a published file; ``?wait=45`` answers when that is done."""
    _check_administrator(request)
    imports = request.app[SERVICE].imports
    imports.check_room()
    async with upload.received(request, FIELD_NAMES, queues=False, payload=MODEL) as form:
        fields = dict(form.fields)
        text = fields.pop("wait", None)
        wait = parse_wait(text) if text else preferred_wait(request) or NO_WAIT
        status = await imports.begin(fields, form.path, form.filename)
    status = await _waited(request, status, wait)
    if status.error is not None:
        raise status.error
    address = f"{request.app[LINK_BASE].of(request)}/models/imports/{status.id}"
    code = 201 if status.ended else 202
    headers = {**wait.headers, "Location": address}
    content = {**_shown(status), "status_url": address}
    return json_response(content, status=code, headers=headers)


async def import_status(request: web.Request) -> web.Response:
    """``GET /models/imports/{import_id}``: its progress or its outcome."""
    _check_administrator(request)
    wait = wait_of(request)
    status = request.app[SERVICE].imports.get(request.match_info["import_id"])
    return json_response(_shown(await _waited(request, status, wait)), headers=wait.headers)


async def delete(request: web.Request) -> web.Response:
    """``DELETE /models/{name}``: delete an imported model."""
    _check_administrator(request)
    name = request.match_info["name"]
    await request.app[SERVICE].imports.delete(name)
    return json_response({"success": True, "name": name})


async def _waited(request: web.Request, status: ImportStatus, wait: Wait) -> ImportStatus:
    """Return the import when it has ended or the time is over."""
    imports = request.app[SERVICE].imports
    if wait.seconds and not status.ended:
        ended = asyncio.create_task(imports.wait(status.id), name=f"wait-import-{status.id}")
        await wait_while_connected(request, ended, wait.seconds)
    return imports.get(status.id)


def _shown(status: ImportStatus) -> dict[str, object]:
    """Return an import as callers see it."""
    shown: dict[str, object] = {
        "import_id": status.id,
        "name": status.offered_as or status.name,
        "status": status.state.value,
    }
    if status.step is not None:
        shown["step"] = status.step
    if status.error is not None:
        shown |= {"error": status.error.message, "code": status.error.code}
    if status.state is ImportState.COMPLETED and status.made is not None:
        made = status.made
        shown["model"] = {
            "scale": made.scale,
            "architecture": made.architecture,
            "size": made.size,
            "parameters": made.parameters,
            "weight_bits": 16 if made.half else 32,
            "decibels": {key: round(value, 1) for key, value in made.agreement.decibels.items()},
            "seam_decibels": round(made.agreement.seam_decibels, 1),
        }
    return shown
