"""A process's own network, whose line to this machine can be cut. It takes root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator


def possible() -> bool:
    """Tell whether this machine permits it: a container may lack the right, or ``ip``."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    network = NetworkNamespace()
    try:
        network.open()
    except subprocess.CalledProcessError:
        return False
    finally:
        network.close()
    return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class NetworkNamespace:
    """A network of its own, with one line to this machine.

    Args:
        number: sets apart the networks of one program.
    """

    def __init__(self, number: int = 0) -> None:
        unique = f"{os.getpid() % 0xFFFF:x}{number}"
        self.name = f"upscaled-{unique}"
        self._line = f"up{unique}h"
        # From the range that RFC 2544 keeps for tests of networks.
        net = f"198.18.{secrets.randbelow(256)}.{4 * secrets.randbelow(64)}"
        head, _, last = net.rpartition(".")
        self.host = f"{head}.{int(last) + 1}"
        """This machine's address, as the namespace sees it."""
        self._inside = f"{head}.{int(last) + 2}"

    @property
    def command(self) -> tuple[str, ...]:
        """What is put before a command so that it runs there."""
        return "ip", "netns", "exec", self.name

    def open(self) -> None:
        """Make it."""
        inner = self._line[:-1] + "n"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._line, "type", "veth", "peer", "name", inner, "netns", self.name)
        _ip("address", "add", f"{self.host}/30", "dev", self._line)
        _ip("link", "set", self._line, "up")
        for arguments in (
            ("address", "add", f"{self._inside}/30", "dev", inner),
            ("link", "set", inner, "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-netns", self.name, *arguments)

    def cut(self) -> None:
        """Let no packet through from now on; connections stay open at both ends."""
        _ip("link", "set", self._line, "down")

    def heal(self) -> None:
        """Let packets through again."""
        _ip("link", "set", self._line, "up")

    def close(self) -> None:
        """Delete it, and the line with it."""
        subprocess.run(["ip", "link", "delete", self._line], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)


@contextlib.contextmanager
def network_namespaces(count: int) -> Iterator[list[NetworkNamespace]]:
    """Make networks for the length of the block."""
    made = [NetworkNamespace(number) for number in range(count)]
    try:
        for one in made:
            one.open()
        yield made
    finally:
        for one in made:
            one.close()
