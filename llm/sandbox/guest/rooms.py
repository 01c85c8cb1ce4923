"""Namespaces: a root of its own, in which nothing can be seen but what Python needs, and an unprivileged user."""

import os
import stat

from . import kernel

WORK = "/unirl_work"  # no folder that is shown lies below it: environments are often in /work
_GUEST = 1000  # user and group, as they are called inside
_NOBODY = 65534  # who that is outside, where the sandbox is started by root
_BASE = "/tmp"  # any folder that is always there: the new root is put up on it, and moved away
_OLD = "/old"
_DEVICES = ("null", "zero", "full", "random", "urandom")
_PRIVATE = kernel.MS_NOSUID | kernel.MS_NODEV


def new_namespaces() -> bool:
    """Put this process's next child into new namespaces; whether `become_guest` is still to be called there.

    Root must not stay root: the kernel does not limit how many processes root has.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        mapped = _map_from_outside(f"0 0 1\n{_GUEST} {_NOBODY} 1\n")
        if mapped:
            return True
    else:
        kernel.unshare(kernel.ALL_NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_GUEST} {user} 1\n")
    _write("/proc/self/gid_map", f"{_GUEST} {group} 1\n")
    return False


def become_guest(namespace: bool) -> None:
    """Be nobody in particular; that user has another number in a namespace."""
    user = _GUEST if namespace else _NOBODY
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def new_root(readable: list[str], size: int, files: int, switch_user: bool) -> int:
    """Leave the file system for an empty one with `readable` folders, some devices, and a private folder to work in.

    Returns a descriptor of the folder of process information, which can be seen in no other way.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("none", _BASE, "tmpfs", _PRIVATE, "size=1m,nr_inodes=4096,mode=755")
    os.mkdir(_BASE + _OLD)
    kernel.pivot_root(_BASE, _BASE + _OLD)
    os.chdir("/")
    for folder in readable:
        _show(folder)
    os.mkdir("/dev")
    for name in _DEVICES:
        _touch(f"/dev/{name}")
        kernel.bind_read_only(f"{_OLD}/dev/{name}", f"/dev/{name}", devices=True)
    os.mkdir("/proc")
    kernel.mount("none", "/proc", "proc", _PRIVATE | kernel.MS_NOEXEC)
    processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    kernel.detach("/proc")
    os.rmdir("/proc")
    owner = f"uid={_GUEST},gid={_GUEST}," if switch_user else ""
    os.mkdir(WORK)
    kernel.mount("none", WORK, "tmpfs", _PRIVATE, f"{owner}size={size},nr_inodes={files},mode=700")
    if not os.path.lexists("/tmp"):
        os.symlink(WORK, "/tmp")
    kernel.detach(_OLD)
    os.rmdir(_OLD)
    kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _PRIVATE)
    return processes


def _map_from_outside(users: str) -> bool:
    """Unshare, and have a child that stays behind map several users, which only root outside may do."""
    outside = os.getpid()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(go)
            os.read(ready, 1)
            _write(f"/proc/{outside}/uid_map", users)
            _write(f"/proc/{outside}/gid_map", users)
            code = 0
        finally:
            os._exit(code)
    kernel.unshare(kernel.ALL_NAMESPACES)
    os.close(ready)
    os.close(go)
    return os.waitpid(child, 0)[1] == 0


def _show(folder: str) -> None:
    old = _OLD + folder
    if os.path.islink(old):  # as /lib is, where everything lies below /usr
        os.symlink(os.readlink(old), folder)
    elif os.path.isdir(old):
        os.makedirs(folder, mode=0o755, exist_ok=True)
        kernel.bind_read_only(old, folder)


def _touch(path: str) -> None:
    os.mknod(path, stat.S_IFREG | 0o644)


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
