"""Limits a confined process to the system calls in calls.toml, by a seccomp filter (seccomp(2)).

A system call that is not listed fails with EPERM. Two kinds of calls fail with ENOSYS, so that the C library uses older
calls instead: clone3, whose flags a filter cannot see, and calls that are newer than the table. If a player ends by
SIGKILL, the referee concludes that another program killed it. Therefore a player is refused every call by which it
could send itself this signal: signals, timers with a chosen signal, limits of processor time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import tomllib
from collections.abc import Sequence
from pathlib import Path
from signal import SIGABRT
from typing import NamedTuple

_TABLE = tomllib.loads(Path(__file__).with_name("calls.toml").read_text())

# Machine -> architecture in linux/audit.h, column in calls.toml, numbers of the calls seccomp and clone3.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0, 317, 435), "aarch64": (0xC00000B7, 1, 277, 435)}

_SET_MODE_FILTER, _ALL_THREADS = 1, 1  # linux/seccomp.h
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # SECCOMP_RET_ERRNO with EPERM, ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data; then 16 + 8 i for the lower half of argument i

# Flags of clone, linux/sched.h. Without _THREAD it makes a process. All namespaces are refused.
_THREAD = 0x10000
_NAMESPACES = 0x20000 | 0x80 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
_TRACED = 0x2000
_TERMINAL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
_INTERFACES = (0x8912, 0x8913, 0x8915, 0x8946)  # SIOCGIFCONF, -FLAGS, -ADDR, SIOCETHTOOL: gloo looks for an interface
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS; not locks, leases, owners
_DESCRIPTORS = (0, 1, 2, 3, 4, 1030, 1032, 1034)
# MADV_NORMAL, DONTNEED, FREE, DONTFORK, DOFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP; none on the page cache
_ADVICE = (0, 4, 8, 10, 11, 14, 15, 16, 17)
# MAP_SHARED, GROWSDOWN, HUGETLB: memory that RLIMIT_DATA does not count
_UNCOUNTED = 0x1 | 0x100 | 0x40000
_NAMES = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and memory
_WRITING = 3 | 64 | 512  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16

_Instruction = tuple[int, int, int, int]


class Needs(NamedTuple):
    """What a process must be allowed to do, besides computing on a CPU."""

    programs: bool = False
    """It may start other programs."""
    network: bool = False
    """It may connect to other ranks."""
    devices: bool = False
    """It may control a GPU through its driver's files."""
    writes: bool = False
    """It may open files for writing, where Landlock allows it."""


def restrict_calls(libc: ctypes.CDLL, needs: Needs) -> bool:
    """Install the filter in all threads of this process, permanently. Returns False if that is not possible here.

    If several filters are installed, all of them apply: a later one cannot allow what an earlier one refuses.
    """
    if platform.machine() not in _ARCHITECTURES:
        return False
    program = call_filter(platform.machine(), os.getpid(), needs)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    seccomp = _ARCHITECTURES[platform.machine()][2]
    return bool(libc.syscall(seccomp, _SET_MODE_FILTER, _ALL_THREADS, header) == 0)


def call_filter(machine: str, pid: int, needs: Needs) -> bytes:
    """The filter for process `pid`, as a program in classic BPF (linux/filter.h)."""
    architecture, column, _, clone3 = _ARCHITECTURES[machine]
    groups = ["step", "start", "siblings"]  # the most frequent calls first
    groups += [name for name in ("programs", "network", "devices") if getattr(needs, name)]
    numbers = {name: row[column] for group in groups for name, row in _TABLE[group]["calls"].items()}
    checks = _checks(pid, needs)
    body: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        *_unless(_EQUAL, architecture, _REFUSE),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name, number in numbers.items():
        if number >= 0:
            block = [*checks.get(name, []), (_ANSWER, 0, 0, _ALLOW)]
            body += [(_EQUAL, 0, len(block), number), *block]
    body += [(_EQUAL, 1, 0, clone3), (_AT_LEAST, 0, 1, _TABLE["newest"] + 1), (_ANSWER, 0, 0, _UNKNOWN)]
    body.append((_ANSWER, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in body)


def _checks(pid: int, needs: Needs) -> dict[str, list[_Instruction]]:
    """System call -> instructions that check its arguments.

    They refuse the call, or the filter continues after them.
    """
    clone = _lacks(0, _NAMESPACES | _TRACED)
    domains = [*((_INET, _INET6, _NETLINK) if needs.network else ()), *((_UNIX,) if needs.devices else ())]
    requests = [*_TERMINAL, *(_INTERFACES if needs.network else ())]
    return {
        "open": [] if needs.writes else _lacks(1, _WRITING),
        "openat": [] if needs.writes else _lacks(2, _WRITING),
        "clone": clone if needs.programs else [*clone, *_has(0, _THREAD)],
        "ioctl": [] if needs.devices else _one_of(1, requests),  # Landlock limits the devices
        "fcntl": _one_of(1, _DESCRIPTORS),
        "madvise": _one_of(2, _ADVICE),
        "mmap": [] if needs.devices or needs.programs else _lacks(3, _UNCOUNTED),
        "prctl": _one_of(0, _NAMES),
        "prlimit64": [*_one_of(0, (0, pid)), *_is_null(2)],
        "tgkill": [*_one_of(0, (pid,)), *_one_of(2, (SIGABRT,))],
        "socket": _one_of(0, domains),
        "seccomp": _one_of(0, (_SET_MODE_FILTER,)),
    }


def _unless(jump: int, value: int, answer: int) -> list[_Instruction]:
    """Instructions that end the filter with `answer`, unless the condition of `jump` is true for the loaded value."""
    return [(jump, 1, 0, value), (_ANSWER, 0, 0, answer)]


def _load(argument: int, *, upper: bool = False) -> _Instruction:
    return _LOAD, 0, 0, 16 + 8 * argument + 4 * upper


def _one_of(argument: int, values: Sequence[int]) -> list[_Instruction]:
    """Instructions that refuse the call unless the argument is one of `values`.

    Only the argument's lower 32 bits are compared, because the kernel reads no others of an int.
    """
    last = len(values)
    tests = [(_EQUAL, last - place, 0, value) for place, value in enumerate(values)]
    return [_load(argument), *tests, (_ANSWER, 0, 0, _REFUSE)]


def _has(argument: int, bits: int) -> list[_Instruction]:
    return [_load(argument), *_unless(_HAS_BITS, bits, _REFUSE)]


def _lacks(argument: int, bits: int) -> list[_Instruction]:
    return [_load(argument), (_HAS_BITS, 0, 1, bits), (_ANSWER, 0, 0, _REFUSE)]


def _is_null(argument: int) -> list[_Instruction]:
    halves = [(_load(argument, upper=upper), *_unless(_EQUAL, 0, _REFUSE)) for upper in (False, True)]
    return [instruction for half in halves for instruction in half]
