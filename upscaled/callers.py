"""Callers: their tokens, their addresses, and the keys that limits count them by."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_HASH_PREFIX = "sha256:"
_REMEMBERED = 4096
"""Parsed addresses in the cache: parsing took a tenth of the time of a status request."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Caller:
    """A caller."""

    owner: str
    """Name of the caller's token; empty for ``server.auth_token``, and without tokens."""
    key: str
    """What rates and queue shares are counted by: the token's name, else the address."""


LOCAL = Caller("", "local")
"""The caller from the command line."""


def hash_of(token: str) -> str:
    """Return a token's form in the settings: ``sha256:`` and 64 hex digits.

    A plain hash is enough, since tokens are long and random and cannot be guessed.
    """
    return _HASH_PREFIX + hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new_token() -> str:
    """Return a new token: 256 random bits as 43 letters, digits, ``-`` and ``_``."""
    return secrets.token_urlsafe(32)


class Tokens:
    """The valid tokens, kept as hashes.

    Args:
        main: the token without a name, or its hash; empty: there is none.
        named: pairs of a name and a hash.
    """

    def __init__(self, main: str, named: Iterable[tuple[str, str]]) -> None:
        self._by_hash = [(hash_, name) for name, hash_ in named]
        if main:
            self._by_hash.append((main if main.startswith(_HASH_PREFIX) else hash_of(main), ""))

    def __bool__(self) -> bool:
        return bool(self._by_hash)

    def owner(self, presented: Sequence[str]) -> str | None:
        """Return the name that belongs to one of the presented tokens, None if none is valid.

        Takes the same time whatever the token is: every token is compared with every hash.
        """
        found: str | None = None
        for token in presented:
            wanted = hash_of(token)
            for hash_, name in self._by_hash:
                if hmac.compare_digest(wanted, hash_):
                    found = name
        return found


@lru_cache(_REMEMBERED)
def _address(text: str) -> Address | None:
    """Parse an address of ``X-Forwarded-For``, with or without a port; None: it is not one."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


class Proxies:
    """The trusted proxies in front of the server."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(text) for text in networks]

    def _trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def trusts(self, peer: str | None) -> bool:
        """Tell whether the other end of a connection is one of them.

        Args:
            peer: its address; None on a Unix socket.
        """
        address = _address(peer or "") if self._networks else None
        return address is not None and self._trusted(address)

    def address_of(self, peer: str | None, forwarded: Iterable[str]) -> str:
        """Return the caller's address: the last one on the way that is not a trusted proxy.

        Args:
            peer: the other end of the connection; None on a Unix socket.
            forwarded: the values of the ``X-Forwarded-For`` headers, in their order. Addresses
                to the left of an untrusted one are ignored: anybody could have written them.
        """
        address = _address(peer or "")
        if address is None:
            return ""
        hops = [hop for value in forwarded for hop in value.split(",")]
        while hops and self._trusted(address):
            before = _address(hops.pop())
            if before is None:
                break
            address = before
        return str(address)


@lru_cache(_REMEMBERED)
def share_of(address: str) -> str:
    """Return what an address is counted by: itself, or its /64 if it is IPv6.

    A household or a server gets at least a /64 and can use any address in it.
    """
    found = _address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address
