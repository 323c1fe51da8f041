"""Confinement of a process that runs a variant's code: the files it may touch, no network, no new process.

Linux only, and without any privilege: Landlock (kernel 5.13 and later, docs.kernel.org/userspace-api/landlock.html)
for files, a seccomp filter (seccomp(2)) for the rest. Every run records what was in force. It keeps a variant from val
and from the outside; it does not make code in the same process trustworthy (docs/threat-model.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import LlmbenchError

# linux/landlock.h. Write: write file, read file, remove file, make regular file, truncate.
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE = _READ_FILE | 1 << 1 | 1 << 5 | 1 << 8 | 1 << 14
_PROGRAMS = 1 << 4 | 1 << 7 | 1 << 13  # remove and make folders, move files between them: what compilers do besides
_DEVICE = _READ_FILE | 1 << 1 | 1 << 15  # read, write, and control it (ioctl): what a driver's files are for
_FILE_RIGHTS = 1 << 0 | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15  # all that make sense on something other than a folder
# Rights that each version of the interface knows; what a version does not know it cannot refuse.
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_HANDLED_FROM_5 = (1 << 16) - 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_RULE_PATH_BENEATH = 1
_O_PATH = 0o10000000

_EXECUTE = 1 << 0
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_ALL_THREADS = 1, 1  # linux/seccomp.h
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # SECCOMP_RET_ERRNO with EPERM, ENOSYS
_CLONE_THREAD = 0x10000
_NO_CALL = 0xFFFFFFFF


class _Calls(NamedTuple):
    """Numbers of one architecture, from the kernel's syscall tables."""

    architecture: int
    """As linux/audit.h calls it."""
    refused: tuple[int, ...]
    """socket; ptrace, process_vm_readv, _writev, pidfd_getfd; io_uring_setup; and what outlives a process: shmget,
    shmat, semget, msgget, mq_open, add_key, keyctl."""
    of_processes: tuple[int, ...]
    """execve, execveat, fork, vfork, kill."""
    clone: int
    clone3: int
    seccomp: int


_CALLS = {
    "x86_64": _Calls(
        0xC000003E, (41, 101, 310, 311, 438, 425, 29, 30, 64, 68, 240, 248, 250), (59, 322, 57, 58, 62), 56, 435, 317
    ),
    "aarch64": _Calls(
        0xC00000B7, (198, 117, 270, 271, 438, 425, 194, 196, 190, 186, 180, 217, 219), (221, 281, 129), 220, 435, 277
    ),
}


def confine(
    readable: Iterable[Path],
    writable: Iterable[Path],
    devices: Iterable[Path] = (),
    *,
    programs: bool = False,
    network: bool = False,
) -> tuple[str, ...]:
    """Confine this process for good; returns the names of what is in force.

    Calls are refused to all of its threads, files to this one and those that it starts. With `programs` it may start
    programs, as confined as itself, until `forbid_programs`. Raises LlmbenchError where the kernel refuses to confine.
    """
    if platform.system() != "Linux":
        return ()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    in_force = ("landlock",) if _restrict_files(libc, readable, writable, devices, programs) else ()
    return (*in_force, "seccomp") if _restrict_calls(libc, programs) else in_force


def forbid_programs() -> None:
    """From here on, no thread of this process starts another process.

    Raises LlmbenchError where one that was started still runs.
    """
    if platform.system() != "Linux":
        return
    if platform.machine() in _CALLS and not _restrict_calls(ctypes.CDLL(None, use_errno=True), programs=False):
        raise LlmbenchError("this kernel does not let a process confine its threads; report its version")
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    if any(children):
        raise LlmbenchError("a program that was started while the model was compiled still runs; let it end")


def interpreter_paths(denied: Iterable[Path]) -> list[Path]:
    """What an interpreter needs to read: itself, its libraries and its packages, less what lies under `denied`."""
    files = ("/dev/zero", "/dev/random", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat")
    roots = {Path(path) for path in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc", "/sys")}
    roots |= {Path(path) for path in sys.path if "-packages" in path}  # a user's site-packages lie elsewhere
    denied = [path.resolve() for path in denied]
    return [path for root in (*sorted(roots), *map(Path, files)) for path in carve(root.resolve(), denied)]


def carve(root: Path, denied: Iterable[Path]) -> list[Path]:
    """Paths that together cover everything beneath `root` but `denied`."""
    denied = [path for path in denied if path.is_relative_to(root)]
    if not denied:
        return [root] if root.exists() else []
    if root in denied:
        return []
    return [path for child in sorted(root.iterdir()) if not child.is_symlink() for path in carve(child, denied)]


def _restrict_files(
    libc: ctypes.CDLL, readable: Iterable[Path], writable: Iterable[Path], devices: Iterable[Path], programs: bool
) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = _HANDLED.get(version, _HANDLED_FROM_5) & ~_READ_DIR  # names may be listed: imports look for theirs
    write = _WRITE
    if programs:
        handled, write = handled & ~_EXECUTE, write | _PROGRAMS
    attributes = struct.pack("=Q", handled)
    ruleset = _call(libc, _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for paths, rights in ((readable, _READ_FILE), (writable, write), (devices, _DEVICE)):
            for path in paths:
                _allow_path(libc, ruleset, path, rights & handled)
        _allow_path(libc, ruleset, Path("/dev/null"), _WRITE & handled)
        _call(libc, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow_path(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        rule = struct.pack("=Qi", rights if path.is_dir() else rights & _FILE_RIGHTS, descriptor)
        _call(libc, _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _restrict_calls(libc: ctypes.CDLL, programs: bool) -> bool:
    if platform.machine() not in _CALLS:
        return False
    calls = _CALLS[platform.machine()]
    refused, clone = (*calls.refused, *calls.of_processes), calls.clone
    if programs:
        refused, clone = calls.refused, _NO_CALL
    program = _filter(calls.architecture, refused, clone, calls.clone3)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    return bool(libc.syscall(calls.seccomp, _SECCOMP_SET_MODE_FILTER, _SECCOMP_ALL_THREADS, header) == 0)


def _filter(architecture: int, refused: tuple[int, ...], clone: int, clone3: int) -> bytes:
    """The filter as classic BPF (linux/filter.h): refused calls fail with EPERM; `clone` may make threads alone.

    clone3 hides its flags from a filter, so it answers ENOSYS and the C library falls back to clone.
    """
    load, equal, above, has_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    number_at, architecture_at, flags_at = 0, 4, 16
    # Jumps count instructions to skip; the tail is: is it a thread, allow, refuse, unknown.
    body: list[tuple[int, int, int, int]] = [(load, 0, 0, architecture_at)]
    count = 8 + len(refused)  # instructions before `allow`
    to_allow, to_refuse, to_unknown = count, count + 1, count + 2

    def jump(code: int, value: int, then: int | None, otherwise: int | None = None) -> None:
        place = len(body) + 1
        body.append((code, 0 if then is None else then - place, 0 if otherwise is None else otherwise - place, value))

    jump(equal, architecture, None, to_refuse)
    body.append((load, 0, 0, number_at))
    jump(above, 0x40000000, to_refuse)  # x86's second table of the same calls
    for number in refused:
        jump(equal, number, to_refuse)
    jump(equal, clone3, to_unknown)
    jump(equal, clone, None, to_allow)
    body.append((load, 0, 0, flags_at))
    jump(has_bits, _CLONE_THREAD, to_allow, to_refuse)
    body.append((answer, 0, 0, _ALLOW))  # reached by jumps alone
    if len(body) - 1 != to_allow:
        raise AssertionError(f"`allow` stands at {len(body) - 1}, not at {to_allow}")
    body += [(answer, 0, 0, _REFUSE), (answer, 0, 0, _UNKNOWN)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in body)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise LlmbenchError(f"this process cannot be confined (Landlock: {reason}); report this kernel's version")
    return result


def limit_resources(memory_bytes, log_bytes):
    pass


def player_environment(environ):
    return dict(environ)
