"""Which network addresses outgoing requests may connect to."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# From IANA's registries of special-purpose addresses, and the registry of multicast addresses.
# Python's `is_global` differs between its versions.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host on this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the metadata services of most clouds
        "168.63.129.16/32",  # a cloud's own services for its machines
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
"""The only global unicast addresses. Outside are loopback, private (fc00::/7), link-local,
multicast and NAT64 (64:ff9b::/96)."""
_NEVER_BY_NAME = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4",
        "240.0.0.0/4", "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::/32", "fd20:ce::/32",
    )
)  # fmt: skip
"""Metadata services, multicast and broadcast. An allowed name does not open these."""

HOST_NAME = re.compile(
    r"(?=.{1,253}\.?$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?"
)


def is_network(text: str) -> bool:
    """Tell whether ``text`` is an address or a network."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


class AddressRules:
    """Tells to which addresses the server may connect: to public ones, and those it was allowed.

    Args:
        allowed: addresses, networks and host names. A name allows every private address that it
            resolves to, apart from `_NEVER_BY_NAME`.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        entries = tuple(allowed)
        self._networks = [ipaddress.ip_network(text) for text in entries if is_network(text)]
        self._names = {_plain(text) for text in entries if not is_network(text)}

    def allows(self, address: Address, host: str) -> bool:
        """Tell whether a connection to ``address`` is allowed.

        Args:
            address: what the socket would connect to.
            host: the name that was resolved to it, or the address itself.
        """
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        forms = [address]
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped is not None:
                # To the kernel it is the IPv4 address.
                forms = [address.ipv4_mapped]
            elif (inner := _embedded(address)) is not None:
                forms.append(inner)
        return all(self._allows(form, host) for form in forms)

    def _allows(self, address: Address, host: str) -> bool:
        if any(address in network for network in self._networks):
            return True
        if _plain(host) in self._names:
            return not any(address in network for network in _NEVER_BY_NAME)
        return _is_public(address) and not _is_own(address)


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _SPECIAL)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a gateway or tunnel would take out of ``address``."""
    value = int(address)
    if address in ipaddress.ip_network("64:ff9b::/96") or 1 < value < 1 << 32:
        return IPv4Address(value & 0xFFFFFFFF)  # NAT64, and the old "IPv4-compatible" form
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if (value >> 32) & 0xFDFFFFFF == 0x00005EFE:  # ISATAP
        return IPv4Address(value & 0xFFFFFFFF)
    return None


def _is_own(address: Address) -> bool:
    """Tell whether ``address`` is one of this machine's own.

    Services that a firewall hides from the world can be reached there. The kernel sends from an
    address of its own to that very address. Connecting a datagram socket sends nothing.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.connect((str(address), 9))
        return ipaddress.ip_address(probe.getsockname()[0]) == address
    return False  # there is no way to it
