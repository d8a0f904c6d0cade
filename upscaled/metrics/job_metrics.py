"""Metrics of ended jobs: counters and histograms that grow when a job ends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from upscaled.jobs.job import Job, JobState

_WAIT_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_WORK_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_STAGE_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


def failure_reason(job: Job) -> str:
    """Return why a job failed, as one of a few words; empty if it did not."""
    if job.state is not JobState.FAILED:
        return ""
    if job.crashes:
        return "server_crash"
    if job.attempts:
        return "attempts"
    return "server" if job.server_fault else "picture"


class JobMetrics:
    """Counts jobs that end.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "upscaled_jobs_ended",
            "Jobs that ended, by state, model, and why they failed: picture (it could not be "
            "used), attempts (all of them failed), server_crash, server (anything else).",
            ("state", "model", "reason"),
            registry=registry,
        )
        self._wait = Histogram(
            "upscaled_job_wait_seconds",
            "Time from a job's submission to the start of the work on it.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._work = Histogram(
            "upscaled_job_work_seconds",
            "Time from the start of the work on a completed job to its end.",
            ("model",),
            buckets=_WORK_BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "upscaled_stage_seconds",
            "Time that the stages of completed jobs took; wait is for a slot.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._attempts = Counter(
            "upscaled_attempts",
            "Attempts at jobs that ended, by engine, device and outcome (ok, failed).",
            ("engine", "device", "outcome"),
            registry=registry,
        )
        self._fallbacks = Counter(
            "upscaled_fallbacks",
            "Jobs completed on another device than that of their first attempt, by the last one.",
            ("device",),
            registry=registry,
        )
        self._input_pixels = Counter(
            "upscaled_input_pixels", "Pixels of the pictures of completed jobs.", registry=registry
        )
        self._output_bytes = Counter(
            "upscaled_result_bytes", "Size of the results of completed jobs.", registry=registry
        )

    def ended(self, job: Job) -> None:
        """Count a job that has ended."""
        model = job.request.model_name
        self._ended.labels(job.state.value, model, failure_reason(job)).inc()
        for attempt in job.attempts:
            outcome = "ok" if attempt.outcome == "ok" else "failed"
            self._attempts.labels(attempt.engine, attempt.device, outcome).inc()
        if job.started is not None:
            self._wait.observe(max(0.0, job.started - job.created))
        # If a job got another one's result, its receipt describes that one's work.
        if job.state is not JobState.COMPLETED or {"cached", "shared"} & job.receipt.keys():
            return
        self._work.labels(model).observe(job.duration or 0.0)
        for stage, seconds in job.receipt.get("seconds", {}).items():
            self._stages.labels(stage).observe(seconds)
        if job.attempts and job.attempts[0].device != job.attempts[-1].device:
            self._fallbacks.labels(job.attempts[-1].device).inc()
        self._input_pixels.inc(job.input_size.width * job.input_size.height)
        self._output_bytes.inc(job.file_size_bytes or 0)
