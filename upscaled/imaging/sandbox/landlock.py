"""Landlock: permanently restricts the files and network that a process can reach.

Calls the three system calls through ctypes, since there is no maintained Python binding. Numbers
and structures are those of linux/landlock.h, the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h

_EXECUTE = 1 << 0
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_FILE = 1 << 7, 1 << 8
_TRUNCATE = 1 << 14

_RIGHTS_BY_VERSION = ((1, 13), (2, 14), (3, 15), (5, 16))
"""Number of file rights by Landlock version."""
_NET_VERSION = 4
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_VERSION = 6
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE | _TRUNCATE
_OF_A_FILE = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # the effect of _pack_; Python 3.19 requires it explicitly
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def version() -> int:
    """Return the kernel's Landlock version; 0 if it is missing or disabled."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError:
        return 0


def forbid_new_privileges() -> None:
    """Ensure that no program started by this process gets more rights than it has.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@dataclass(frozen=True)
class FileRules:
    """Files that every process may read: made once, since checking folders takes time."""

    version: int
    handled: int
    """File rights that this version of Landlock knows, as bits."""
    readable: tuple[tuple[Path, int], ...]
    """Files and folders, and the rights to them."""


def read_rules(folders: Iterable[Path]) -> FileRules:
    """Return the rules for `restrict`, with read access to ``folders``.

    Skips paths that do not exist, and paths inside another of the folders.

    Raises:
        OSError: the kernel has no Landlock.
    """
    found = _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    rights = max((number for since, number in _RIGHTS_BY_VERSION if since <= found), default=0)
    handled = (1 << rights) - 1
    real = sorted({folder.resolve() for folder in folders if _is_ours(folder)})
    apart: list[Path] = []
    for path in real:  # sorted: paths inside a folder come after it
        if not any(path.is_relative_to(other) for other in apart):
            apart.append(path)
    return FileRules(
        found, handled, tuple((path, _rights(path, _READ) & handled) for path in apart)
    )


def restrict(
    rules: FileRules,
    readable: Iterable[Path],
    writable: Iterable[Path],
    runnable: Iterable[Path] = (),
) -> int:
    """Restrict this thread, and those it starts, to the rules and to these files and folders.

    It can no longer open any other file, run a program except ``runnable`` ones, use a TCP port
    (version 4), signal an outside process or connect to an abstract socket (version 6). Paths that
    do not exist are skipped.

    Returns:
        The version of Landlock.

    Raises:
        OSError: the kernel refused.
    """
    attributes = _Ruleset(
        rules.handled,
        _BIND_AND_CONNECT_TCP if rules.version >= _NET_VERSION else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if rules.version >= _SCOPE_VERSION else 0,
    )
    ruleset = _call(
        _CREATE_RULESET,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
        ctypes.c_uint32(0),
    )
    try:
        for path, rights in rules.readable:
            _allow(ruleset, path, rights, follow=True)
        for path in readable:
            _allow(ruleset, path, _rights(path, _READ) & rules.handled)
        for path in writable:
            _allow(ruleset, path, _rights(path, _READ | _WRITE) & rules.handled)
        for path in runnable:
            rights = _rights(path, _READ | _EXECUTE) & rules.handled
            _allow(ruleset, path, rights, follow=True)
        forbid_new_privileges()
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return rules.version


def _is_ours(path: Path) -> bool:
    """Tell whether the path exists and this user may access it."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def _rights(path: Path, wanted: int) -> int:
    """Return those of the ``wanted`` rights that apply to a file, or to a folder."""
    return wanted if path.is_dir() else wanted & _OF_A_FILE


def _allow(ruleset: int, path: Path, rights: int, *, follow: bool = False) -> None:
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # a missing path, or one of another user, needs no permission
    try:
        rule = _PathBeneath(rights, descriptor)
        _call(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(descriptor)
