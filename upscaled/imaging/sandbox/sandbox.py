"""The cell around a process that decodes strangers' bytes: what it can no longer reach.

`limits` bounds what the process uses up; this bounds what it touches. Landlock leaves it the
files it needs, seccomp takes network, programs and administration from it. Both work without
privileges and inside containers, where bubblewrap's user namespaces often do not, and neither
needs a helper program. Where one is not to be had the cell is weaker, and says so.
"""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy
import PIL

import upscaled
from upscaled.imaging.sandbox import landlock, seccomp

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store")
_LOADER_CACHE = "/etc/ld.so.cache"


@dataclass(frozen=True)
class Confinement:
    """What the cell consists of: ``active`` measures, and ``lacking`` ones with the reason."""

    active: tuple[str, ...]
    lacking: tuple[str, ...]

    def __str__(self) -> str:
        """``files (Landlock 7) and system calls (seccomp)``, and what is lacking."""
        text = " and ".join(self.active) or "nothing but limits"
        return f"{text}; lacking: {'; '.join(self.lacking)}" if self.lacking else text


@dataclass(frozen=True)
class Restrictions:
    """What is the same for every cell; what can't be had is the error that says why."""

    rules: landlock.FileRules | OSError
    program: seccomp.Program | OSError


@functools.cache
def restrictions() -> Restrictions:
    """Return the walls, made by the first call: before processes are forked that need them."""
    rules: landlock.FileRules | OSError
    program: seccomp.Program | OSError
    try:
        rules = landlock.read_rules(code_folders())
    except OSError as error:
        rules = error
    try:
        program = seccomp.compile_filter()
    except OSError as error:
        program = error
    return Restrictions(rules, program)


def enter_sandbox(readable: Collection[Path], writable: Collection[Path]) -> Confinement:
    """Confine this thread, and all that it starts, for good; never fails for a lack of means.

    Call it before other threads are started: those that run already stay free.

    Args:
        readable: files and folders that may be read, beside Python's own.
        writable: folders in which files may be made, changed and deleted too.
    """
    active, lacking = [], []
    found = restrictions()
    try:
        if isinstance(found.rules, OSError):
            raise found.rules
        number = landlock.restrict(found.rules, readable, writable)
    except OSError as error:
        lacking.append(f"files (Landlock: {error.strerror})")
    else:
        active.append(f"files (Landlock {number})")
    try:
        if isinstance(found.program, OSError):
            raise found.program
        seccomp.restrict(found.program)
    except OSError as error:
        lacking.append(f"system calls (seccomp: {error.strerror or error})")
    else:
        active.append("system calls (seccomp)")
    return Confinement(tuple(active), tuple(lacking))


def code_folders() -> tuple[Path, ...]:
    """Return what Python and its libraries load code from, even late."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names}
    # Debian's own packages lie beside those that sysconfig knows of; so do a user's.
    folders |= {*site.getsitepackages(), *_LIBRARIES, _LOADER_CACHE}
    packages = {Path(package.__path__[0]).parent for package in (numpy, PIL)}
    return (
        Path(upscaled.__path__[0]),
        Path(sys.base_prefix, "lib"),
        *sorted(packages),
        *map(Path, sorted(folders)),
    )
