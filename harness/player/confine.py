"""Confines a process that runs a variant's code, permanently: what is not explicitly allowed is refused.

Linux only. No root rights are needed. Landlock (kernel 5.13 and later, docs.kernel.org/userspace-api/landlock.html)
limits the files, a seccomp filter (calls.py) limits the system calls, and the process gives up all capabilities. Every
run records which of these three mechanisms were active.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.player.calls import Needs, restrict_calls

# linux/landlock.h
_EXECUTE, _READ_FILE, _READ_DIR, _IOCTL = 1 << 0, 1 << 2, 1 << 3, 1 << 15
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | 1 << 1 | 1 << 5 | 1 << 8 | 1 << 14  # write, remove and make regular files, truncate
_PROGRAMS = 1 << 4 | 1 << 7 | 1 << 13  # remove and make folders, move files between them, as compilers do
_DEVICE = _READ_FILE | 1 << 1 | _IOCTL  # read, write and ioctl on a driver's files
_FILE_RIGHTS = _EXECUTE | 1 << 1 | _READ_FILE | 1 << 14 | _IOCTL  # rights that exist for files
# Version of Landlock -> number of these rights that it knows. It cannot refuse the others.
_KNOWN = {1: 13, 2: 14, 3: 15, 4: 15}
_KNOWN_FROM_5 = 16
_NETWORK_FROM, _SCOPES_FROM = 4, 6  # versions; bits 1 and 2 mean: bind and connect TCP; abstract sockets and signals
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_RULE_PATH_BENEATH = 1
_O_PATH = 0o10000000

# linux/prctl.h, linux/capability.h
_DROP_BOUNDING, _NO_NEW_PRIVS, _AMBIENT, _CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_SETS = ("CapI", "CapP", "CapE", "CapA")  # in /proc/self/status; the bounding set alone grants nothing

_NAMED_IN_ETC = ("ld.so.cache", "localtime", "hosts", "host.conf", "gai.conf", "nsswitch.conf", "resolv.conf")
_READ_ELSEWHERE = (
    *(f"/etc/{name}" for name in _NAMED_IN_ETC),
    *("/dev/zero", "/dev/random", "/dev/urandom"),
    # Read by OpenMP, torch and the C library to learn about processors and memory.
    *("/proc/cpuinfo", "/proc/sys/vm/overcommit_memory", "/sys/kernel/mm/transparent_hugepage/enabled"),
    # No folders with counters: players could communicate through free memory or idle time.
    *(f"/sys/devices/system/{kind}/{name}" for kind in ("cpu", "node") for name in ("online", "possible")),
    "/sys/devices/system/cpu/present",
)
_OF_ITSELF = [Path("/proc/self") / name for name in ("status", "stat", "statm", "maps")]
_OF_A_DRIVER = [Path(path) for path in ("/proc/self", "/proc/meminfo", "/sys/devices/system")]

OPEN_FILES = 256  # descriptors; importing torch takes about ten

# Environment variables that a player gets: settings of numerical libraries and of the locale.
_KEPT = {"LANG", "TZ", "LD_LIBRARY_PATH"}
_KEPT_PREFIXES = (
    *("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "GLIBC_TUNABLES", "ATEN_", "TORCH"),
    *("PYTORCH_", "TRITON_", "CUDA_", "NVIDIA_", "CUBLAS_", "CUDNN_", "NCCL_", "GLOO_"),
)
_KEPT_TO_COMPILE = {"PATH", "CXX", "CC", "TMPDIR"}


def confine(
    readable: Iterable[Path],
    writable: Iterable[Path] = (),
    devices: Iterable[Path] = (),
    *,
    programs: bool = False,
    network: bool = False,
) -> tuple[str, ...]:
    """Confine this process and all that it starts, permanently. Returns the sorted names of the active mechanisms.

    If `programs` is true, it may start programs, which are confined in the same way. If `network` is true, it may
    connect to other ranks (processes that train the same model). Import `harness` and `models` before this call,
    because afterwards their parent folder cannot be listed. Raises LlmbenchError if the process has several threads, of
    which Landlock would confine only one, or if the kernel does not accept the limits.
    """
    if platform.system() != "Linux":
        return ()
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise LlmbenchError(
            f"this process has {threads} threads and only one would be confined; confine it before it starts threads"
        )
    writable, devices = list(writable), list(devices)
    if network or devices:
        readable = [
            *readable,
            Path("/sys/bus/pci/devices"),
            *Path("/sys/devices").glob("pci*"),
        ]  # gloo and CUDA look for devices there
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    in_force = {
        "capabilities": _drop_capabilities(libc),
        "landlock": _restrict_files(libc, readable, writable, devices, programs, network),
        "seccomp": restrict_calls(libc, Needs(programs, network, bool(devices), bool(writable or devices))),
    }
    return tuple(name for name, holds in in_force.items() if holds)


def limit_resources(memory_bytes: int | None, *, file_bytes: int = 0) -> None:
    """Limit memory, size of a file and number of open files of this process, permanently; forbid core dumps.

    Call it before `confine`, after which limits cannot change. `memory_bytes` limits writable memory (RLIMIT_DATA):
    allocations beyond it fail. None means no limit, as is needed with a GPU, because its driver reserves far more
    memory than it uses. `file_bytes` limits the size of each file that the process writes, also of its log.
    """
    if sys.platform == "win32":
        return
    import resource

    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_NOFILE: OPEN_FILES}
    if memory_bytes is not None:
        wanted[resource.RLIMIT_DATA] = memory_bytes
    for limit, value in wanted.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def player_environment(environ: Mapping[str, str], *, compiles: bool = False) -> dict[str, str]:
    """The variables of `environ` that a player gets: settings of its libraries, but no user's name and no secret."""
    kept = _KEPT | (_KEPT_TO_COMPILE if compiles else set())
    mine = {name: value for name, value in environ.items() if name in kept or name.startswith(_KEPT_PREFIXES)}
    # torch's compiler, where it is imported, needs a user's name and an existing folder.
    return {**mine, "LOGNAME": "player", "TORCHINDUCTOR_CACHE_DIR": sys.prefix}


def interpreter_paths(denied: Iterable[Path]) -> list[Path]:
    """Paths that a Python interpreter has to read: itself, libraries and packages, without the files under `denied`."""
    roots = {Path(path) for path in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64")}
    roots |= {Path(path) for path in sys.path if "-packages" in path}  # a user's site-packages lie elsewhere
    denied = [path.resolve() for path in denied]
    found = {path: None for root in sorted(roots) for path in carve(root.resolve(), denied)}
    return [*found, *(path.resolve() for path in map(Path, _READ_ELSEWHERE) if path.exists())]


def carve(root: Path, denied: Iterable[Path]) -> list[Path]:
    """Paths that together cover everything beneath `root` except `denied`."""
    denied = [path for path in denied if path.is_relative_to(root)]
    if not denied:
        return [root] if root.exists() else []
    if root in denied:
        return []
    return [path for child in sorted(root.iterdir()) if not child.is_symlink() for path in carve(child, denied)]


def _drop_capabilities(libc: ctypes.CDLL) -> bool:
    """Drop all Linux capabilities, so that the process cannot get one back. Returns whether it has none left."""
    capability = 0
    while libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0) == 0:  # fails after the last one, or without permission
        capability += 1
    libc.prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    held = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:4] in _SETS]
    return not any(int(sets, 16) for sets in held)


def _restrict_files(
    libc: ctypes.CDLL,
    readable: Iterable[Path],
    writable: Iterable[Path],
    devices: Iterable[Path],
    programs: bool,
    network: bool,
) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << _KNOWN.get(version, _KNOWN_FROM_5)) - 1
    attributes = struct.pack("=Q", handled)
    if version >= _NETWORK_FROM:
        attributes += struct.pack("=Q", 0 if network else 3)
    if version >= _SCOPES_FROM:
        attributes += struct.pack("=Q", 3)
    ruleset = _call(libc, _CREATE_RULESET, attributes, len(attributes), 0)
    read, write = (_READ | _EXECUTE, _WRITE | _PROGRAMS) if programs else (_READ, _WRITE)
    readable = [*readable, *_OF_ITSELF, *(_OF_A_DRIVER if devices else [])]
    rules = ((readable, read), (writable, write), (devices, _DEVICE), ([Path("/dev/null")], _WRITE))
    try:
        for paths, rights in (*rules, (_import_folders(), _READ_DIR)):
            for path in paths:
                _allow_path(libc, ruleset, path, rights & handled)
        _call(libc, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _import_folders() -> list[Path]:
    """Folders of packages.

    A process must be allowed to list them, because an import does this, even if it may not read a package in them.
    """
    roots = (sys.prefix, sys.base_prefix)
    return [Path(path) for path in sys.path if path.startswith(roots) or "-packages" in path]


def _allow_path(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a missing file needs no rule
    try:
        rule = struct.pack("=Qi", rights if path.is_dir() else rights & _FILE_RIGHTS, descriptor)
        _call(libc, _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise LlmbenchError(
            f"Landlock cannot confine this process ({reason}); report this with the version of the Linux kernel"
        )
    return result
