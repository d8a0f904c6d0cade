"""Types and rules of settings, and how text becomes a value."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from upscaled.errors import ConfigError
from upscaled.formats import INPUT_NAMES
from upscaled.outgoing import signatures
from upscaled.outgoing.addresses import HOST_NAME, is_network

Tokens = tuple[tuple[str, str], ...]
"""Pairs of a name and a hash or secret; in the file a mapping, in the environment
``name=hash,…``."""

_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+\.?|\*\.[A-Za-z0-9_-]+")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


@dataclass(frozen=True)
class Rule:
    """What one setting allows beyond its type, and its help text."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None
    check: Callable[[Any], str | None] | None = None
    """Describes what is allowed if the value is not; else None."""
    former: str | None = None
    """The key that it had in earlier versions, which is still accepted."""

    def complaint(self, value: object) -> str | None:
        """Describe what is allowed if ``value`` is not; else None."""
        if self.choices and value not in self.choices:
            return "one of " + ", ".join(self.choices)
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = self.minimum, self.maximum
            if (low is not None and value < low) or (high is not None and value > high):
                if high is None:
                    return f"{low:g} or more"
                return f"between {low:g} and {high:g}"
        return self.check(value) if self.check else None


def setting(default: Any, help_: str, **rule: Any) -> Any:
    """Return the dataclass field of a setting."""
    return field(default=default, metadata={"rule": Rule(help_, **rule)})


# --- checks: each returns what is allowed if the value is not, else None -----------------------


def member_name(value: str) -> str | None:
    """Check the name of a cluster's member."""
    fits = not value or _TOKEN_NAME.fullmatch(value)
    return None if fits else "empty, or up to 64 letters, digits, dots, dashes and underscores"


def public_url(value: str) -> str | None:
    """Check the address under which callers reach the server."""
    if not value or re.fullmatch(rf"({_ORIGIN.pattern})?(/[A-Za-z0-9._~-]+)*/?", value):
        return None
    return "an address such as https://photos.example/upscaled, or its path alone"


def prefix(value: str) -> str | None:
    """Check the path that all endpoints start with."""
    ok = re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value)
    return None if ok else "a path that starts with / and does not end in one, such as /api/v1"


def tile(value: int) -> str | None:
    """Check a tile size."""
    return None if value == 0 or 32 <= value <= 4096 else "0 (automatic) or between 32 and 4096"


def token(value: str) -> str | None:
    """Check a single token: a secret, or a complete hash."""
    if value.startswith("sha256:") and not _HASH.fullmatch(value):
        return "a secret, or its hash as `upscaled token NAME` prints it"
    return None


def tokens(value: Tokens) -> str | None:
    """Check named tokens."""
    names = [name for name, _ in value]
    fine = all(_TOKEN_NAME.fullmatch(name) and _HASH.fullmatch(hash_) for name, hash_ in value)
    if fine and len(set(names)) == len(names):
        return None
    return "a name of letters, digits, . _ -, each once, with the hash `upscaled token` prints"


def origins(value: tuple[str, ...]) -> str | None:
    """Check web origins."""
    fine = all(_ORIGIN.fullmatch(origin) for origin in value)
    return None if fine else "a list of origins such as https://photos.example, without a path"


def hosts(value: tuple[str, ...]) -> str | None:
    """Check host names."""
    fine = all(_HOST.fullmatch(host) for host in value)
    return (
        None
        if fine
        else (
            "a list of names such as photos.example or *.photos.example, or * (those without a dot "
            "need not be listed)"
        )
    )


def networks(value: tuple[str, ...]) -> str | None:
    """Check IP networks."""
    for text in value:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            return "a list of addresses and networks such as 10.0.0.0/8"
    return None


def destinations(value: tuple[str, ...]) -> str | None:
    """Check hosts, addresses and networks of other machines."""
    if all(is_network(text) or HOST_NAME.fullmatch(text.lower()) for text in value):
        return None
    return "a list of host names, addresses and networks such as n8n.lan or 10.0.0.0/8"


def ports(value: tuple[int, ...]) -> str | None:
    """Check TCP ports."""
    return (
        None
        if all(1 <= port <= 65535 for port in value)
        else "a list of port numbers between 1 and 65535"
    )


def webhook_secret(value: str) -> str | None:
    """Check the secrets of one token."""
    try:
        signatures.keys_of(value)
    except ValueError:
        return "whsec_ and 24 to 64 random bytes in base64, or several of them separated by blanks"
    return None


def webhook_secrets(value: Tokens) -> str | None:
    """Check the secrets of named tokens."""
    names = [name for name, _ in value]
    if len(set(names)) == len(names) and all(_TOKEN_NAME.fullmatch(name) for name in names):
        return next((told for _, text in value if (told := webhook_secret(text))), None)
    return "names of tokens, each once, with a secret such as whsec_…"


def retry_pauses(value: tuple[int, ...]) -> str | None:
    """Check the pauses between attempts."""
    if len(value) <= 50 and all(1 <= seconds <= 86_400 for seconds in value):
        return None
    return "a list of up to 50 pauses between 1 and 86400 seconds"


def input_formats(value: tuple[str, ...]) -> str | None:
    """Check the accepted picture formats."""
    if value and set(value) <= set(INPUT_NAMES):
        return None
    return f"a list of one or more of {', '.join(INPUT_NAMES)}"


# --- types ------------------------------------------------------------------------------------

_TYPE_NAMES: Mapping[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple[int, ...]: "a list of whole numbers, such as [0, 1]",
    tuple[str, ...]: "a list of strings",
    Tokens: "names with values, such as {laptop: 'sha256:…'}",
}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _listed(text: str) -> list[str]:
    inner = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inner.split(",") if part.strip()]


def from_text(text: str, kind: object) -> object:
    """Turn an environment variable or flag into the value the file would hold."""
    readers: Mapping[object, Callable[[str], object]] = {
        bool: lambda t: _TRUTH[t.strip().lower()],
        int: int,
        float: float,
        tuple[int, ...]: lambda t: [int(part) for part in _listed(t)],
        tuple[str, ...]: _listed,
        Tokens: lambda t: dict(pair.split("=", 1) for pair in _listed(t)),
    }
    try:
        return readers[kind](text) if kind in readers else text
    except (KeyError, ValueError):
        return text


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _in_type(value: object, kind: Any) -> object:
    """Return ``value`` converted to the type ``kind``: a list becomes a tuple, for instance.

    Raises:
        TypeError: it has another type.
    """
    if kind == Tokens:
        if isinstance(value, dict) and all(
            _is(part, str) for pair in value.items() for part in pair
        ):
            return tuple(value.items())
    elif kind in {tuple[int, ...], tuple[str, ...]}:
        inner = int if kind == tuple[int, ...] else str
        if isinstance(value, list | tuple) and all(_is(part, inner) for part in value):
            return tuple(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif _is(value, kind):
        return value
    raise TypeError


def typed(name: str, kind: object, rule: Rule, value: object, source: str) -> object:
    """Return ``value`` in the type of the setting ``name``.

    Raises:
        ConfigError: wrong type or not allowed; names the key, the value and what is allowed.
    """
    shown = value
    try:
        value = _in_type(value, kind)
        allowed = rule.complaint(value)
        if not isinstance(value, tuple):
            shown = value
    except TypeError:
        allowed = _TYPE_NAMES[kind]
    if allowed is None and isinstance(value, float) and not math.isfinite(value):
        allowed = "a finite number"
    if allowed is not None:
        raise ConfigError(f"{source}: {name} is {shown!r}; it must be {allowed}.")
    return value
