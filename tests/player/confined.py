"""A process that confines itself and then tries everything once: `python -m tests.player.confined FOLDER [free]`.

It prints what is in force, and of each attempt its error or null. With `free` it is not confined: almost every attempt
then succeeds, or it would prove nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import models  # noqa: F401  its parent folder is not listed when it is confined
from harness.player.confine import confine, interpreter_paths, limit_resources

FOLDER, FREE = Path(sys.argv[1]), "free" in sys.argv
LIBC = ctypes.CDLL(None, use_errno=True)
COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)
MINE, GIVEN, OTHER = FOLDER / "own", FOLDER / "given", FOLDER / "other"
OPEN_GIVEN = os.open(GIVEN, os.O_RDONLY)  # as a descriptor that it has been given
MEMORY = mmap.mmap(-1, mmap.PAGESIZE)
PAGE = ctypes.addressof(ctypes.c_char.from_buffer(MEMORY))
MEMORY_LIMIT = 1 << 30


class Timer(ctypes.Structure):
    """A timer that sends the signal of its choice: struct sigevent."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    ]


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def call(number: int | tuple[int, int], *arguments: object) -> None:
    """A call by its number, or by its numbers on x86-64 and aarch64."""
    checked(LIBC.syscall(number if isinstance(number, int) else number[COLUMN], *arguments))


def threads_work() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def torch_works() -> None:
    import numpy as np
    import safetensors.torch
    from torch.optim import AdamW

    torch.set_num_threads(2)
    layer = torch.nn.Linear(512, 512)
    layer(torch.ones(512, 512)).sum().backward()
    AdamW(layer.parameters()).step()
    raw = safetensors.torch.save({"w": layer.weight.detach()})
    if not np.isfinite(safetensors.torch.load(raw)["w"].numpy()).all():
        raise OSError(errno.EINVAL, "the products are wrong")


def memory_is_limited() -> None:
    try:
        bytearray(2 * MEMORY_LIMIT)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "no memory") from error


ALLOWED: dict[str, Callable[[], object]] = {
    "read what was given": GIVEN.read_bytes,
    "list the sources": lambda: os.listdir("harness"),
    "list packages": lambda: __import__("importlib.metadata").metadata.version("numpy"),
    "write its own": lambda: (MINE / "new").write_text("x"),
    "replace its own": lambda: os.replace(MINE / "new", MINE / "old") if FREE else None,
    "write null": lambda: Path("/dev/null").write_text("x"),
    "random numbers": lambda: os.urandom(8),
    "threads": threads_work,
    "pipes": os.pipe,
    "its limits": lambda: resource.getrlimit(resource.RLIMIT_DATA),
    "import the model": lambda: __import__("models.gpt"),
    "torch with two threads": torch_works,
}
"""What a player needs."""

FILES: dict[str, Callable[[], object]] = {
    "read other": OTHER.read_bytes,
    "list the folder": lambda: os.listdir(FOLDER),
    "list the home": lambda: os.listdir(Path.home()),
    "list runs": lambda: os.listdir("."),
    "read passwords": Path("/etc/passwd").read_bytes,
    "read shadow": Path("/etc/shadow").read_bytes,
    "read the machine's load": Path("/proc/stat").read_bytes,
    "read the parent": lambda: Path(f"/proc/{os.getppid()}/maps").read_bytes(),
    "write what was given": lambda: GIVEN.write_text("text"),
    "write elsewhere": lambda: (FOLDER / "new").write_text("x"),
    "write a device": lambda: os.open("/dev/zero", os.O_WRONLY),
    "write its own name": lambda: Path("/proc/self/comm").write_text("kworker"),
}
"""Refused by Landlock."""

CALLS: dict[str, Callable[[], object]] = {
    "xattr": lambda: os.setxattr(MINE, "user.note", b"x"),
    "read xattr": lambda: os.listxattr(GIVEN),
    "utime": lambda: os.utime(GIVEN),
    "utime of a descriptor": lambda: os.utime(OPEN_GIVEN),
    "chmod": lambda: GIVEN.chmod(0o644),
    "fchmod": lambda: os.fchmod(OPEN_GIVEN, 0o644),
    "chown": lambda: os.chown(GIVEN, os.getuid(), os.getgid()),
    "mkdir": lambda: (MINE / "folder").mkdir(),
    "unlink": lambda: (MINE / "old").unlink(),
    "link": lambda: os.link(GIVEN, MINE / "link"),
    "flock": lambda: fcntl.flock(OPEN_GIVEN, fcntl.LOCK_SH),
    "lockf": lambda: fcntl.lockf(OPEN_GIVEN, fcntl.LOCK_SH),
    "lease": lambda: fcntl.fcntl(OPEN_GIVEN, fcntl.F_SETLEASE, fcntl.F_RDLCK),
    "owner of a descriptor": lambda: fcntl.fcntl(OPEN_GIVEN, fcntl.F_SETOWN, os.getpid()),
    "signal of a descriptor": lambda: fcntl.fcntl(OPEN_GIVEN, 10, signal.SIGKILL),
    "inotify": lambda: checked(LIBC.inotify_init1(0)),
    "fadvise": lambda: os.posix_fadvise(OPEN_GIVEN, 0, 0, os.POSIX_FADV_DONTNEED),
    "readahead": lambda: checked(LIBC.readahead(OPEN_GIVEN, 0, 4096)),
    "read without waiting": lambda: os.preadv(OPEN_GIVEN, [bytearray(1)], 0, os.RWF_NOWAIT),
    "mincore": lambda: checked(LIBC.mincore(ctypes.c_void_p(PAGE), 4096, ctypes.create_string_buffer(1))),
    "madvise pageout": lambda: checked(LIBC.madvise(ctypes.c_void_p(PAGE), 4096, 21)),
    "cachestat": lambda: call(451, OPEN_GIVEN, ctypes.create_string_buffer(16), ctypes.create_string_buffer(40), 0),
    "sync": lambda: os.fsync(OPEN_GIVEN),
    "free disk": lambda: os.statvfs(GIVEN),
    "memfd": lambda: os.memfd_create("x"),
    "shared memory": lambda: checked(LIBC.shmget(0, 4096, 0o600)),
    "semaphores": lambda: checked(LIBC.semget(0, 1, 0o600)),
    "messages": lambda: checked(LIBC.msgget(0, 0o600)),
    "message queue": lambda: checked(LIBC.mq_open(b"/llmbench-test", os.O_RDWR | os.O_CREAT, 0o600, None)),
    "key": lambda: call((248, 217), b"user", b"llmbench", b"x", 1, -1),
    "socket": socket.socket,
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "socket pair": socket.socketpair,
    "fork": lambda: os.fork() or os._exit(0),
    "program": lambda: subprocess.run(["true"], check=True),
    "exec": lambda: os.execv("/nonexistent", ["x"]),
    "clone3": lambda: call(435, 0, 0),
    "newer than the table": lambda: call(1023),
    "unshare": lambda: checked(LIBC.unshare(0x10000000)),
    "chroot": lambda: os.chroot("/"),
    "unmount": lambda: checked(LIBC.umount2(b"/nonexistent", 0)),
    "hostname": lambda: socket.sethostname(socket.gethostname()),
    "kill the parent": lambda: os.kill(os.getppid(), 0),
    "kill itself": lambda: os.kill(os.getpid(), 0 if FREE else signal.SIGKILL),
    "kill a thread": lambda: call((200, 130), threading.get_native_id(), 0 if FREE else signal.SIGKILL),
    "signal a thread": lambda: signal.pthread_kill(threading.get_ident(), 0 if FREE else signal.SIGKILL),
    "stop itself": lambda: os.kill(os.getpid(), 0 if FREE else signal.SIGSTOP),
    "kill by timer": lambda: call(
        (222, 107), 0, ctypes.byref(Timer(signal=signal.SIGKILL)), ctypes.byref(ctypes.c_int())
    ),
    "die with the parent": lambda: checked(LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)),
    "strict mode": lambda: checked(-1 if FREE else LIBC.prctl(22, 1, 0, 0, 0)),
    "another filter": lambda: call((317, 277), 1, 0, None),
    "affinity": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "affinity of the parent": lambda: os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 0),
    "nice": lambda: os.nice(1),
    "scheduler": lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
    "limit of the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
    "its own limit": lambda: checked(LIBC.setrlimit(resource.RLIMIT_NOFILE, struct.pack("=QQ", 64, 64))),
    "limit of processor time": lambda: checked(
        LIBC.setrlimit(resource.RLIMIT_CPU, struct.pack("=QQ", 1 << 20, 1 << 20))
    ),
    "ptrace": lambda: checked(LIBC.ptrace(0, 0, 0, 0)),
    "memory of the parent": lambda: checked(LIBC.process_vm_readv(os.getppid(), None, 0, None, 0, 0)),
    "a process's descriptor": lambda: os.pidfd_open(os.getppid()),
    "io_uring": lambda: call(425, 1, ctypes.create_string_buffer(120)),
    "bpf": lambda: call((321, 280), 0, ctypes.create_string_buffer(128), 128),
    "perf": lambda: call((298, 241), ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "page faults": lambda: call((323, 282), 1),
    "set the clock": lambda: checked(LIBC.adjtimex(ctypes.create_string_buffer(512))),
    "another user": lambda: os.setuid(os.getuid()),
    "change folder": lambda: os.chdir("."),
    "terminal": lambda: fcntl.ioctl(OPEN_GIVEN, 0x5412, b"x"),
}
"""Refused by the filter."""

LIMITS: dict[str, Callable[[], object]] = {
    "memory": memory_is_limited,
    "a large file": lambda: (MINE / "large").write_bytes(bytes(2 << 20)),
    "descriptors": lambda: [os.dup(0) for _ in range(300)],
}


def tried(attempts: dict[str, Callable[[], object]]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = None
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, str(error))
    return found


def main(kinds: Sequence[dict[str, Callable[[], object]]]) -> None:
    in_force: tuple[str, ...] = ()
    if not FREE:
        limit_resources(MEMORY_LIMIT, file_bytes=1 << 20)
        in_force = confine([*interpreter_paths([]), Path("harness"), Path("models"), GIVEN], [MINE])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    capabilities = [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")]
    sys.stdout.write(json.dumps([in_force, capabilities, *map(tried, kinds)]))


if __name__ == "__main__":
    main((ALLOWED, FILES, CALLS, LIMITS))
