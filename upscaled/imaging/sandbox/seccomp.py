"""seccomp: permanently refuses system calls that a computing process does not need.

Uses libseccomp, which knows the call numbers on every architecture and comes with systemd and apt.
Its Python bindings are not maintained, and only six of its functions are needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection
from dataclasses import dataclass

from upscaled.imaging.sandbox.landlock import forbid_new_privileges

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOT_EQUAL, _MASKED_EQUAL = 1, 7
_CLONE_THREAD = 0x00010000  # linux/sched.h
_UNKNOWN = -1  # __NR_SCMP_ERROR
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE; libseccomp 2.5

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2  # linux/prctl.h, linux/seccomp.h
_INSTRUCTION = struct.Struct("=HBBI")  # sock_filter of linux/filter.h
_SOMEBODY = 0x6E6F6D65
"""Stands for the process id of whoever loads the filter; greater than any real one."""

REFUSED = (
    # the network, and passing descriptors
    *("socket", "socketpair", "socketcall", "connect", "bind", "listen", "accept", "accept4"),
    *("sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # programs and processes
    *("execve", "execveat", "fork", "vfork", "setsid", "setpgid"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("tkill", "setpriority", "ioprio_set"),
    *("sched_setscheduler", "sched_setattr", "sched_setparam"),
    # not covered by Landlock: owners, permissions, times and attributes of files
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "utime", "utimes", "utimensat"),
    *("truncate", "truncate64"),  # Landlock covers it from version 3; our code uses ftruncate
    # no link or device may replace a file in the job's folder
    *("link", "linkat", "symlink", "symlinkat", "mknod", "mknodat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat", "futimesat"),
    # the system itself
    *("mount", "umount", "umount2", "pivot_root", "chroot", "unshare", "setns", "move_mount"),
    *("open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"),
    *("bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key"),
    *("open_by_handle_at", "name_to_handle_at", "init_module", "finit_module", "delete_module"),
    *("kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl"),
    *("personality", "modify_ldt", "vhangup", "syslog", "sethostname", "setdomainname"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm"),
    *("memfd_create", "memfd_secret", "fanotify_init", "inotify_init", "inotify_init1"),
)
"""System calls that fail with EPERM, if the architecture has them."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Loaded(ctypes.Structure):
    _fields_ = (("instructions", ctypes.c_ushort), ("first", ctypes.c_void_p))


_libc = ctypes.CDLL(None, use_errno=True)


class _Filter:
    def __init__(self) -> None:
        lib = ctypes.CDLL("libseccomp.so.2")
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
        lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        lib.seccomp_release.argtypes = (ctypes.c_void_p,)
        lib.seccomp_release.restype = None
        lib.seccomp_rule_add_array.argtypes = (
            *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
            ctypes.POINTER(_Comparison),
        )
        self._lib = lib
        self._context = lib.seccomp_init(_ALLOW)
        if not self._context:
            raise OSError(errno.ENOMEM, "libseccomp has no filter for this machine")

    def refuse(self, name: str, *where: _Comparison, code: int = errno.EPERM) -> None:
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:  # newer than this libseccomp, or of another architecture
            return
        comparisons = (_Comparison * len(where))(*where)
        result = self._lib.seccomp_rule_add_array(
            self._context, _ERRNO | code, number, len(where), comparisons
        )
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def program(self) -> bytes:
        """Return the filter in the kernel's format."""
        self._lib.seccomp_attr_set(self._context, _OPTIMIZE, _BINARY_TREE)  # older versions can't
        file = os.memfd_create("filter")
        try:
            result = self._lib.seccomp_export_bpf(self._context, file)
            if result < 0:
                raise OSError(-result, os.strerror(-result))
            return os.pread(file, os.fstat(file).st_size, 0)
        finally:
            os.close(file)

    def close(self) -> None:
        self._lib.seccomp_release(self._context)


@dataclass(frozen=True)
class Program:
    """A filter, ready to load except for the id of the process that loads it."""

    code: bytes
    own_id_at: tuple[int, ...]
    """Positions of that id in the code."""


def compile_filter(*, allowed: Collection[str] = ()) -> Program:
    """Return the filter that refuses network, programs, processes and administration.

    Call it once: it takes ten times as long as loading the filter.

    Args:
        allowed: calls of `REFUSED` that it lets pass.

    Raises:
        OSError: there is no libseccomp, or it can't be used.
    """
    made = _Filter()
    try:
        for name in REFUSED:
            if name not in allowed:
                made.refuse(name)
        # A filter can't inspect clone3's arguments; the C library falls back to clone.
        made.refuse("clone3", code=errno.ENOSYS)
        made.refuse("clone", _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, 0))
        # Only for this process's own limits and processors; 0 stands for it.
        for name in ("prlimit64", "sched_setaffinity"):
            made.refuse(name, _Comparison(0, _NOT_EQUAL, 0, 0))
        for name in ("kill", "tgkill"):
            made.refuse(name, _Comparison(0, _NOT_EQUAL, _SOMEBODY, 0))
        code = made.program()
    finally:
        made.close()
    operand = _INSTRUCTION.size - 4
    own_id_at = tuple(
        number * _INSTRUCTION.size + operand
        for number, (*_, value) in enumerate(_INSTRUCTION.iter_unpack(code))
        if value == _SOMEBODY
    )
    if not own_id_at:
        raise OSError(errno.EINVAL, "libseccomp made a filter that can't be read")
    return Program(code, own_id_at)


def restrict(program: Program) -> None:
    """Permanently apply the filter to this thread and those it starts.

    It can still create threads and signal itself (which is how it aborts).

    Raises:
        OSError: the kernel refused.
    """
    code = bytearray(program.code)
    for place in program.own_id_at:
        struct.pack_into("=I", code, place, os.getpid())
    instructions = (ctypes.c_char * len(code)).from_buffer(code)
    loaded = _Loaded(len(code) // _INSTRUCTION.size, ctypes.addressof(instructions))
    forbid_new_privileges()  # otherwise only root may load a filter
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(loaded), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
