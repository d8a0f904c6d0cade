"""The settings of the section ``server``."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.config import types as allowed
from upscaled.config.types import setting as _setting


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens and what it accepts from the network."""

    host: str = _setting(
        "127.0.0.1",
        "Address to listen on. 127.0.0.1: only this machine. 0.0.0.0: all its networks.",
        flag="--host",
    )
    port: int = _setting(
        8089, "TCP port; 0: any free one.", minimum=0, maximum=65535, flag="--port"
    )
    api_prefix: str = _setting(
        "/api/v1", "Path that all endpoints start with.", check=allowed.prefix
    )
    auth_token: str = _setting(
        "",
        "Secret that callers must send as `Authorization: Bearer …` or `X-Auth-Token`; "
        "empty: callers need none. Its hash, as in `tokens`, is allowed here too.",
        check=allowed.token,
    )
    tokens: tuple[tuple[str, str], ...] = _setting(
        (),
        "More secrets, each with a name. Callers see, cancel and download only the jobs of their "
        "own token. `upscaled token NAME` makes a token and prints the line to add here.",
        check=allowed.tokens,
    )
    cors_origins: tuple[str, ...] = _setting(
        (),
        "Other web sites whose pages may call this server, as origins such as "
        "https://photos.example; empty: none.",
        check=allowed.origins,
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        "Host names under which callers may reach the server, such as photos.example or "
        "*.photos.example, in addition to localhost, IP addresses, names without a dot and this "
        "machine's own name; * allows any. A server without a token refuses other names, because a "
        "web page could use one to get around the browser's protection (DNS rebinding).",
        check=allowed.hosts,
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "Networks of reverse proxies, such as 10.0.0.0/8. Only from these does the server accept "
        "X-Forwarded-For as the caller's address, X-Forwarded-Host as its own name and "
        "X-Forwarded-Prefix as the path that the proxy strips.",
        check=allowed.networks,
    )
    public_url: str = _setting(
        "",
        "Address under which callers reach this server's root, for links and the documentation, "
        "such as https://photos.example/upscaled where a proxy strips /upscaled; empty: links "
        "start with api_prefix, after the X-Forwarded-Prefix of a trusted proxy.",
        check=allowed.public_url,
    )
    max_connections: int = _setting(
        512,
        "Largest number of open connections; further ones are answered with 503.",
        minimum=1,
        maximum=100_000,
    )
    header_timeout_seconds: float = _setting(
        30.0,
        "Seconds within which a request's headers must arrive, else 408.",
        minimum=0.1,
        maximum=3600,
    )
    body_timeout_seconds: float = _setting(
        60.0,
        "Seconds within which each MiB of a request's body must arrive, else 408.",
        minimum=0.1,
        maximum=86_400,
    )
    send_timeout_seconds: float = _setting(
        60.0,
        "Seconds in which a caller must take each 256 KiB of a response, else the connection is "
        "ended.",
        minimum=0.1,
        maximum=86_400,
    )
    max_request_size_mb: int = _setting(
        200, "Largest request body in MiB.", minimum=1, maximum=100_000
    )
    drain_seconds: float = _setting(
        20.0,
        "Seconds that running jobs get to finish when the server stops. Unfinished jobs resume at "
        "the next start.",
        minimum=0,
        maximum=86_400,
    )
