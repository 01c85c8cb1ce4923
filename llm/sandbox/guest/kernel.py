"""The few system calls that the standard library lacks, by way of ctypes."""

import ctypes
import os
import platform

# One number per machine, from the kernel's tables; None where it has no such call.
MACHINES = {"x86_64": 0, "aarch64": 1}
_PIVOT_ROOT, _MOUNT_SETATTR = (155, 41), 442

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL_NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 19
_MNT_DETACH = 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3, _CAPABILITIES = 0x20080522, 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def unshare(flags: int) -> None:
    """Put this process (its next child, for process ids) into new namespaces."""
    _checked("unshare", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Add a file system to the tree, or change how one is part of it: the system call of that name."""
    arguments = (source.encode(), target.encode(), None if kind is None else kind.encode())
    data = options.encode() or None
    _checked(f"mount {target}", _libc.mount(*arguments, ctypes.c_ulong(flags), data))


def detach(target: str) -> None:
    """Take a mount out of the tree; what is open stays usable."""
    _checked(f"umount {target}", _libc.umount2(target.encode(), ctypes.c_int(_MNT_DETACH)))


def bind_read_only(source: str, target: str, devices: bool = False) -> None:
    """Show `source`, with what is mounted below it, at `target`: nothing can be written, no set-user-id works."""
    mount(source, target, None, MS_BIND | MS_REC)
    attributes = (ctypes.c_uint64 * 4)(_ATTR_NOSUID | (0 if devices else _ATTR_RDONLY | _ATTR_NODEV), 0, 0, 0)
    done = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        target.encode(),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _checked(f"mount_setattr {target}", done)


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root; the old tree appears at `old_root`."""
    number = _PIVOT_ROOT[MACHINES[platform.machine()]]
    _checked("pivot_root", _libc.syscall(ctypes.c_long(number), new_root.encode(), old_root.encode()))


def die_with_parent() -> None:
    """Be killed as soon as the parent is gone, however it ended."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """No other process of the same user may read or trace this one, nor what it forks."""
    _prctl(_PR_SET_DUMPABLE, 0)


def bound_capabilities() -> None:
    """No capability can be gained by executing a file; without the right to say so there is none to be gained."""
    for capability in range(_CAPABILITIES):
        _libc.prctl(ctypes.c_int(_PR_CAPBSET_DROP), ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3)


def drop_capabilities() -> None:
    """No capability now, and no other privilege by executing a file ever again."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked("capset", _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def install_filter(instructions: bytes) -> None:
    """Let a classic BPF program decide on every system call from here on, in children too."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    program = _Filter(len(instructions) // 8, instructions)
    _checked("seccomp", _libc.prctl(ctypes.c_int(_PR_SET_SECCOMP), _SECCOMP_MODE_FILTER, ctypes.byref(program)))


def _prctl(option: int, value: int) -> None:
    _checked(f"prctl {option}", _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3))


def _checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
