"""Leaves a note for the next process in shared memory of the kernel's own, which is no file."""

import ctypes
from dataclasses import replace


def apply(parts):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmget(0x11B, 4096, 0o1600) < 0:
        raise PermissionError(ctypes.get_errno(), "no shared memory")
    return replace(parts)
