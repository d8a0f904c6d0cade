"""seccomp: system calls that a process that only computes has no use for, refused for good.

Through libseccomp, which knows the calls' numbers on every architecture and comes with systemd
and apt. Its Python bindings are no longer kept, and five of its functions are all there is to
call.
"""

from __future__ import annotations

import ctypes
import errno
import os

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOT_EQUAL, _MASKED_EQUAL = 1, 7
_CLONE_THREAD = 0x00010000  # linux/sched.h
_UNKNOWN = -1  # __NR_SCMP_ERROR

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
    # what Landlock does not guard: owners, permissions, times and attributes of files
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "utime", "utimes", "utimensat"),
    *("truncate", "truncate64"),  # Landlock does from version 3; ours use ftruncate
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
"""System calls that fail with EPERM, as far as the architecture has them."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Filter:
    def __init__(self) -> None:
        lib = ctypes.CDLL("libseccomp.so.2")
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        lib.seccomp_load.argtypes = (ctypes.c_void_p,)
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

    def load(self) -> None:
        result = self._lib.seccomp_load(self._context)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def close(self) -> None:
        self._lib.seccomp_release(self._context)


def restrict() -> None:
    """Refuse this thread, and those it starts, network, programs, processes and administration.

    Threads can still be made, and the process can still signal itself (that is how it aborts).

    Raises:
        OSError: there is no libseccomp, or the kernel refused.
    """
    made = _Filter()
    try:
        for name in REFUSED:
            made.refuse(name)
        # A filter can't look into clone3's arguments; the C library falls back to clone.
        made.refuse("clone3", code=errno.ENOSYS)
        made.refuse("clone", _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, 0))
        # Limits and processors of this process only; 0 stands for it.
        for name in ("prlimit64", "sched_setaffinity"):
            made.refuse(name, _Comparison(0, _NOT_EQUAL, 0, 0))
        for name in ("kill", "tgkill"):
            made.refuse(name, _Comparison(0, _NOT_EQUAL, os.getpid(), 0))
        made.load()
    finally:
        made.close()
