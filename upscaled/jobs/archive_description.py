"""Archives as callers see them: what status, events and webhooks have in common."""

from __future__ import annotations

from typing import Any

from upscaled.jobs.archive_records import ArchiveRecord, ArchiveState


def described(record: ArchiveRecord, links_base: str) -> dict[str, Any]:
    """Return an archive as callers see it.

    Args:
        record: the archive.
        links_base: what the addresses of all endpoints start with, such as ``/api/v1``.
    """
    base = f"{links_base}/archives/{record.id}"
    progress = 100 if record.state is ArchiveState.COMPLETED else 100 * record.done // record.pages
    shown: dict[str, Any] = {
        "archive_id": record.id,
        "status": record.state.value,
        "progress": progress if record.state is ArchiveState.COMPLETED else min(progress, 99),
        "filename": record.filename,
        "kind": record.kind,
        "entries": record.entries,
        "pages_total": record.pages,
        "pages_done": record.done,
        "pages_upscaled": record.upscaled,
        "pages_kept": record.kept,
        "pages_failed": record.failed,
        "created": record.created,
        "status_url": base,
        "pages_url": f"{base}/pages",
        "events_url": f"{base}/events",
    }
    if record.client_ref is not None:
        shown["client_ref"] = record.client_ref
    if record.finished is not None:
        shown["finished"] = record.finished
    if record.state is ArchiveState.COMPLETED:
        shown |= {"file_size_bytes": record.size_bytes, "sha256": record.sha256}
        if record.result_gone is not None:
            shown["result_gone"] = record.result_gone
        else:
            shown["download_url"] = f"{base}/download"
    if record.error is not None:
        shown |= {"error": record.error, "code": record.code}
    return shown
