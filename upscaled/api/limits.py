"""The limits of the server: what a client may know before it sends anything."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from upscaled import __version__
from upscaled.api.context import SERVICE
from upscaled.api.responses import json_response
from upscaled.api.waiting import ANSWER_SECONDS
from upscaled.config.settings import Config
from upscaled.formats import INPUT_NAMES, RESULT_NAMES, input_format, result_format
from upscaled.service.job_options import LARGEST_FACTOR, SCALES

_SHOWN_FEATURES = ("docs", "job_lists", "web", "image_url", "webhooks", "archives")


async def limits(request: web.Request) -> web.Response:
    """``GET /limits``: sizes, formats, times and features."""
    return json_response(_limits_of(request.app[SERVICE].config))


def _limits_of(config: Config) -> dict[str, object]:
    limits, storage, server = config.limits, config.storage, config.server
    features = asdict(config.features)
    return {
        "version": __version__,
        "token_required": bool(server.auth_token or server.tokens),
        "max_upload_bytes": server.max_request_size_mb << 20,
        "max_input_megapixels": limits.max_input_megapixels,
        "max_output_megapixels": limits.max_output_megapixels,
        "input_formats": [
            _input(name) for name in INPUT_NAMES if name in config.features.input_formats
        ],
        "output_formats": [_output(name) for name in RESULT_NAMES],
        "scales": list(SCALES),
        "max_enlargement": LARGEST_FACTOR,
        "default_model": config.upscaler.default_model,
        "default_scale": config.upscaler.default_scale,
        "longest_wait_seconds": ANSWER_SECONDS,
        "delete_after_download": storage.delete_after_download,
        "grace_minutes": storage.grace_minutes,
        "result_ttl_hours": storage.result_ttl_hours,
        "record_ttl_hours": storage.record_ttl_hours,
        "rate_limit_per_minute": limits.rate_limit_per_minute,
        "preview": {
            "max_input_pixels": limits.preview_pixels,
            "requests_per_minute": limits.previews_per_minute,
        }
        if limits.preview_pixels
        else None,
        "archives": {
            "max_bytes": config.archives.max_size_mb << 20,
            "max_entries": config.archives.max_entries,
            "max_entry_bytes": config.archives.max_entry_mb << 20,
            "max_unpacked_bytes": config.archives.max_unpacked_mb << 20,
            "max_under_way": config.archives.max_per_client,
        }
        if config.features.archives and not config.cluster.used
        else None,
        "features": {name: features[name] for name in _SHOWN_FEATURES if name in features},
    }


def _input(name: str) -> dict[str, object]:
    row = input_format(name)
    return {
        "name": row.name,
        "label": row.label,
        "media_type": row.media_type,
        "suffixes": list(row.suffixes),
    }


def _output(name: str) -> dict[str, object]:
    row = result_format(name)
    return {
        "name": row.result_name,
        "label": row.label,
        "media_type": row.media_type,
        "quality": row.has_quality,
        "lossless": row.has_lossless or not row.has_quality,
        "alpha": row.has_alpha,
        "max_side": row.largest_side,
    }
