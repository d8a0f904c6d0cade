"""Ties a child process to its parent's life, then runs the given program in its place.

Run it by path in an isolated interpreter (no site, no package import: a few milliseconds), since
``preexec_fn`` is unsafe in a process with threads::

    python -I -S launcher.py PARENT_PID PROGRAM [ARG …]
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)  # here, since forked processes also call it


def die_with_parent(parent: int) -> None:
    """Let the kernel SIGKILL this process when process ``parent`` ends, however it ends.

    Raises:
        SystemExit: the parent has ended already.
        OSError: the kernel refused.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:  # it ended before the call above took effect
        raise SystemExit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    try:
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]} can't be run: {error.strerror}\n")
        raise SystemExit(127) from None
