"""Reports the service's state to systemd (sd_notify(3)); does nothing without systemd.

The whole protocol is one datagram of lines, so there is no library for it.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(*lines: str) -> bool:
    """Send lines such as ``READY=1`` to systemd.

    Returns:
        False if systemd did not start this service or does not listen; the latter is logged.
        Never blocks.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("the supervisor could not be told", extra={"reason": error.strerror})
        return False
    return True


def watchdog_seconds() -> float | None:
    """Return the longest time between two ``WATCHDOG=1``; None: no watchdog is set."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not meant or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000
