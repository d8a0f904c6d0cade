"""The present state of the server, as metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from upscaled import __version__
from upscaled.service.figures import Figures
from upscaled.service.service import Service


async def current(service: Service, sent_bytes: int) -> list[Metric]:
    """Return the state of a service.

    Args:
        service: whose state is returned.
        sent_bytes: of results, in total.
    """
    health, figures = await service.reports.health(), service.reports.figures()
    jobs = GaugeMetricFamily(
        "upscaled_jobs", "Jobs that wait or are worked on, by state.", labels=("state",)
    )
    jobs.add_metric(("queued",), figures.queued)
    jobs.add_metric(("processing",), figures.processing)
    up = GaugeMetricFamily(
        "upscaled_healthy", "1 while pictures can be upscaled here, by the self-test."
    )
    up.add_metric((), float(health["status"] == "ok"))
    busy = CounterMetricFamily(
        "upscaled_device_busy_seconds",
        "Time in which a device worked; a device shared by several small jobs counts once.",
        labels=("engine", "device"),
    )
    for place, seconds in figures.busy_seconds.items():
        busy.add_metric((place.engine, place.device.id), seconds)
    verified = CounterMetricFamily(
        "upscaled_verifications",
        "Results that were compared with their source, by outcome (passed, refused).",
        labels=("outcome",),
    )
    for outcome, count in figures.verifications.items():
        verified.add_metric((outcome,), count)
    webhooks = CounterMetricFamily(
        "upscaled_webhook_attempts",
        "Attempts at delivering webhook messages, by the state that the message got.",
        labels=("state",),
    )
    for state, count in figures.webhook_attempts.items():
        webhooks.add_metric((state,), count)
    cache = CounterMetricFamily(
        "upscaled_cache_lookups",
        "Look-ups in the result cache by outcome: hit, miss, corrupted (its digest was wrong), "
        "joined (the same job was under way).",
        labels=("outcome",),
    )
    for outcome, count in figures.cache_answers.items():
        cache.add_metric((outcome,), count)
    received = CounterMetricFamily(
        "upscaled_received_bytes", "Bytes of uploads.", value=figures.received_bytes
    )
    sent = CounterMetricFamily("upscaled_sent_bytes", "Bytes of results.", value=sent_bytes)
    info = GaugeMetricFamily(
        "upscaled_info", "1, with version and engine.", labels=("version", "engine")
    )
    info.add_metric((__version__, str(health["engine"])), 1)
    free = health["free_disk_mb"]
    assert isinstance(free, int)  # noqa: S101
    return [
        jobs,
        up,
        busy,
        verified,
        webhooks,
        cache,
        received,
        sent,
        info,
        *_of_cluster(figures),
        *_gauges(
            ("queue_oldest_seconds", "Age of the job that waits longest.", figures.oldest_seconds),
            ("slots", "Jobs that can be worked on at once.", figures.slots),
            ("disk_free_bytes", "Free bytes on the disk of the data folder.", free << 20),
            ("uploads", "Uploads in progress.", figures.uploads),
            ("grace_results", "Results that a proxy has received, kept for a while.",
             figures.in_grace),
            ("cache_bytes", "Size of the result cache.", figures.cache_bytes),
            ("webhook_jobs", "Jobs with webhook messages that are not delivered yet.",
             figures.webhook_jobs),
        ),
    ]  # fmt: skip


def _of_cluster(figures: Figures) -> Iterable[Metric]:
    """Yield what there is in a cluster only; every server tells the same."""
    members = GaugeMetricFamily(
        "upscaled_cluster_members", "Members of the cluster that are there.", labels=("role",)
    )
    for role, count in figures.members.items():
        members.add_metric((role,), count)
    jobs = GaugeMetricFamily(
        "upscaled_worker_jobs", "Jobs that a worker of the cluster does.", labels=("worker",)
    )
    ended = CounterMetricFamily(
        "upscaled_worker_jobs_ended",
        "Jobs that a worker ended since its start, by state (completed, failed).",
        labels=("worker", "state"),
    )
    busy = CounterMetricFamily(
        "upscaled_worker_busy_seconds",
        "Time in which a worker's devices worked since its start.",
        labels=("worker",),
    )
    for name, worker in figures.workers.items():
        jobs.add_metric((name,), worker.jobs)
        busy.add_metric((name,), worker.busy_seconds)
        for state in ("completed", "failed"):
            ended.add_metric((name, state), worker.ended.get(state, 0))
    yield from (members, jobs, ended, busy)


def _gauges(*rows: tuple[str, str, float]) -> Iterable[Metric]:
    for name, text, value in rows:
        family = GaugeMetricFamily(f"upscaled_{name}", text)
        family.add_metric((), value)
        yield family
