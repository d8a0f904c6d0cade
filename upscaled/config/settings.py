"""Settings: one frozen class per section.

The fields of these classes, of `ServerSettings` and of `ClusterSettings` are the settings; `table`
lists them as rows. The flags of ``upscaled serve`` and the
environment variables come from it, and ``python -m testkit.settings_table`` writes ``config.yaml``
and ``docs/configuration.md`` from it.
`sources` reads the values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.config import types as allowed
from upscaled.config.archive_settings import ArchiveSettings
from upscaled.config.cluster_settings import ClusterSettings
from upscaled.config.server_settings import ServerSettings
from upscaled.config.types import setting as _setting
from upscaled.config.upscaler_settings import UpscalerSettings
from upscaled.formats import INPUT_NAMES


@dataclass(frozen=True)
class StorageSettings:
    """Where files are stored and for how long."""

    data_dir: str = _setting(
        "data", "Folder for uploads, results and job records.", flag="--data-dir"
    )
    delete_after_download: bool = _setting(
        True, "Delete a result after it has been downloaded completely."
    )
    result_ttl_hours: float = _setting(
        24.0, "Hours after which a result that nobody downloaded is deleted.", minimum=0.001
    )
    grace_minutes: float = _setting(
        15.0,
        "Minutes that a result stays after a proxy has downloaded it, since its caller may still "
        "be reading: a broken download can be continued or repeated. Direct downloads are deleted "
        "at once. 0: those of proxies too.",
        minimum=0,
        maximum=100_000,
    )
    upload_ttl_minutes: float = _setting(
        60.0,
        "Minutes that an upload which broke off is kept, so that it can be continued.",
        minimum=0.001,
        maximum=100_000,
    )
    record_ttl_hours: float = _setting(
        168.0, "Hours after a job's end after which its status is deleted.", minimum=0.001
    )
    view_cache_mb: int = _setting(
        4096,
        "MiB of thumbnails and tiles that are kept for the page. A picture of 100 megapixels takes "
        "40 to 400; the oldest views are deleted first, and all of them with their job's result.",
        minimum=16,
        maximum=100_000_000,
    )
    result_cache_mb: int = _setting(
        0,
        "MiB of results that are kept, also after their download, to answer the same request of "
        "the same token again without work. 0: none is kept.",
        minimum=0,
        maximum=100_000_000,
    )
    result_cache_hours: float = _setting(
        168.0, "Hours after which a result in that cache is deleted.", minimum=0.001
    )


@dataclass(frozen=True)
class LimitSettings:
    """How much work is accepted."""

    max_concurrent_jobs: int = _setting(
        0,
        "Jobs upscaled at the same time; 0: one per device, and several small pictures on the CPU.",
        minimum=0,
        maximum=1024,
    )
    max_queue_size: int = _setting(
        100,
        "Largest number of waiting jobs; further ones are refused with 503.",
        minimum=1,
        maximum=1_000_000,
    )
    max_queue_per_client: int = _setting(
        0,
        "Largest number of waiting and running jobs of one client (its token, else its address); "
        "further ones are refused with 503. 0: no limit.",
        minimum=0,
        maximum=1_000_000,
    )
    max_input_megapixels: float = _setting(
        150.0, "Largest accepted picture, in megapixels.", minimum=0.01, maximum=10_000
    )
    max_output_megapixels: float = _setting(
        2400.0, "Largest result, in megapixels.", minimum=0.01, maximum=100_000
    )
    scheduling: str = _setting(
        "fair",
        "Order of waiting jobs. fair: clients get equal time, small jobs come before large ones "
        "(docs/scheduling.md); fifo: first come, first served.",
        choices=("fair", "fifo"),
    )
    imaging_memory_mb: int = _setting(
        4096,
        "Memory limit for decoding one picture, or encoding one as WebP, in MiB.",
        minimum=512,
        maximum=1_000_000,
    )
    rate_limit_per_minute: int = _setting(
        0, "Submissions per minute and client; 0: no limit.", minimum=0, maximum=1_000_000
    )
    preview_pixels: int = _setting(
        65_536,
        "Largest part of a picture, in pixels, for a preview (POST /preview); 0: no previews.",
        minimum=0,
        maximum=1_048_576,
    )
    previews_per_minute: int = _setting(
        60, "Previews per minute and client; 0: no limit.", minimum=0, maximum=1_000_000
    )


@dataclass(frozen=True)
class OutgoingSettings:
    """Which other machines the server may connect to, where a caller names an address."""

    allow: tuple[str, ...] = _setting(
        (),
        "Hosts, addresses and networks that the server may connect to although they are not "
        "public, such as n8n.lan or 10.0.0.0/8. A host name does not open the metadata services "
        "of clouds.",
        check=allowed.destinations,
    )
    ports: tuple[int, ...] = _setting(
        (80, 443),
        "TCP ports that the server may connect to; empty: any.",
        check=allowed.ports,
    )
    timeout_seconds: float = _setting(
        30.0,
        "Time limit in seconds for fetching the picture at an image_url.",
        minimum=0.1,
        maximum=3600,
    )


@dataclass(frozen=True)
class WebhookSettings:
    """How receivers get the events of jobs."""

    secret: str = _setting(
        "",
        "Secret that signs messages about the jobs of callers without a named token: whsec_ and 24 "
        "to 64 random bytes in base64. Several, separated by blanks, sign side by side, so that a "
        "receiver can be given a new one. Empty: messages are not signed.",
        check=allowed.webhook_secret,
    )
    secrets: tuple[tuple[str, str], ...] = _setting(
        (),
        "The same for the jobs of named tokens, by the token's name.",
        check=allowed.webhook_secrets,
    )
    retry_seconds: tuple[int, ...] = _setting(
        (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800),
        "Pauses in seconds between the attempts to deliver one message. After the last attempt "
        "the message is given up. Each pause varies by 20 %.",
        check=allowed.retry_pauses,
    )
    timeout_seconds: float = _setting(
        15.0, "Time limit in seconds for a receiver's answer.", minimum=0.1, maximum=300
    )
    max_pending: int = _setting(
        10_000,
        "Largest number of undelivered messages of one token's jobs; with more, submissions that "
        "name a receiver are refused.",
        minimum=1,
        maximum=1_000_000,
    )


@dataclass(frozen=True)
class LoggingSettings:
    """The log on standard error."""

    level: str = _setting(
        "info",
        "Lowest level that is logged.",
        choices=("debug", "info", "warning", "error"),
    )
    format: str = _setting(
        "text", "Format of the log: one line per event, as text or JSON.", choices=("text", "json")
    )
    access: bool = _setting(False, "Log each HTTP request too.")


@dataclass(frozen=True)
class MetricsSettings:
    """Figures for Prometheus, at /metrics (docs/metrics.md)."""

    enabled: bool = _setting(
        True, "Count, and serve the figures to programs on this machine at /metrics."
    )
    token: str = _setting(
        "",
        "Secret that other machines must send as `Authorization: Bearer …` to see the metrics, or "
        "its hash (`upscaled token metrics`). Empty: no other machine sees them on server.port.",
        check=allowed.token,
    )
    port: int = _setting(
        0,
        "Serve the metrics on this TCP port instead of server.port. Anyone who reaches the port "
        "can read them, unless token is set. 0: on server.port.",
        minimum=0,
        maximum=65535,
    )
    host: str = _setting("127.0.0.1", "Address that metrics.port listens on.")


@dataclass(frozen=True)
class FeatureSettings:
    """Features that can be switched off."""

    web: bool = _setting(True, "Serve the page at / where pictures are upscaled in a browser.")
    docs: bool = _setting(True, "Serve the API's documentation (Swagger UI) at <api_prefix>/docs.")
    job_lists: bool = _setting(
        True,
        "Show callers all jobs of their token (GET /jobs and GET /events). Without tokens that is "
        "everybody's jobs: switch it off where callers must not see each other's.",
    )
    image_url: bool = _setting(
        False,
        "If a submission has image_url, fetch the picture from there. The section outgoing says "
        "which addresses are allowed.",
    )
    webhooks: bool = _setting(
        True, "Send the events of a job to the callback_url of its submission."
    )
    model_imports: bool = _setting(
        False,
        "Let callers who send server.auth_token import models (POST /models) and delete imported "
        "ones. Named tokens may not.",
    )
    archives: bool = _setting(
        True, "Upscale the pages of archives (POST /archives). The section archives bounds them."
    )
    join_identical: bool = _setting(
        True,
        "Do the work once for identical requests of one token that arrive while the first one is "
        "being worked on.",
    )
    input_formats: tuple[str, ...] = _setting(
        INPUT_NAMES,
        "Accepted picture formats; the content of an upload decides, not its name.",
        check=allowed.input_formats,
    )


@dataclass(frozen=True)
class Config:
    """All settings. ``base`` is the folder that relative paths in them start from, ``kept`` the one
    of compiled networks where that is not in the data folder.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    upscaler: UpscalerSettings = field(default_factory=UpscalerSettings)
    storage: StorageSettings = StorageSettings()
    limits: LimitSettings = LimitSettings()
    archives: ArchiveSettings = field(default_factory=ArchiveSettings)
    outgoing: OutgoingSettings = OutgoingSettings()
    webhooks: WebhookSettings = WebhookSettings()
    logging: LoggingSettings = LoggingSettings()
    features: FeatureSettings = FeatureSettings()
    metrics: MetricsSettings = MetricsSettings()
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    base: Path = field(default_factory=Path.cwd)
    kept: Path | None = None

    def path(self, value: str) -> Path:
        """Return a path setting as an absolute path, ``~`` expanded."""
        return Path(os.path.normpath(self.base / Path(value).expanduser()))

    @property
    def data_dir(self) -> Path:
        """Absolute folder of uploads, results and records."""
        return self.path(self.storage.data_dir)

    @property
    def models_dir(self) -> Path:
        """Absolute folder of the models."""
        return self.path(self.upscaler.models_path)

    @property
    def models_cache(self) -> Path:
        """Absolute file that keeps what was measured of the models."""
        return self.data_dir / "models.json"

    @property
    def methods_file(self) -> Path:
        """Absolute file that keeps what was measured of methods to run networks."""
        return self.data_dir / "ways.json"

    @property
    def networks_dir(self) -> Path:
        """Absolute folder that keeps compiled networks."""
        return self.kept or self.data_dir / "networks"


def warnings(config: Config) -> list[str]:
    """Return sentences about settings that are allowed but risky."""
    found = []
    local = config.server.host in {"127.0.0.1", "localhost", "::1"} or (
        config.server.host.startswith("127.")
    )
    if not local and not config.server.auth_token and not config.server.tokens:
        found.append(
            f"The server listens on {config.server.host} without server.auth_token: everybody who "
            "reaches this address can use it. Set a token or listen on 127.0.0.1."
        )
    if config.features.model_imports and not config.server.auth_token:
        found.append(
            "features.model_imports is true, but nobody may import models: that needs "
            "server.auth_token, which is not set."
        )
    return found
