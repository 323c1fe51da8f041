"""Write the numbers of harness/player/calls.toml anew with libseccomp; `--check` only says whether they are right.

    apt install python3-seccomp && /usr/bin/python3 benchmarks/calls.py [--check]

A new need is measured with strace, whose names are libseccomp's, and its name put into a group with [-1, -1]:

    strace -ff -o /tmp/trace llmbench run baseline --track smoke --pairs 1
    sed -s '1,/^seccomp(/d' $(grep -l '^seccomp(' /tmp/trace.*) | grep -oE '^[a-z0-9_]+' | sort | uniq -c
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TABLE = Path(__file__).parents[1] / "harness/player/calls.toml"
NEWEST_AT_MOST = 1024  # the kernel numbers its calls from 0 on without large gaps


def numbered(table: str) -> str:
    """The table with libseccomp's numbers."""
    import seccomp  # not on PyPI: only the distribution's own Python has it

    architectures = (seccomp.Arch.X86_64, seccomp.Arch.AARCH64)

    def row(match: re.Match[str]) -> str:
        x86_64, aarch64 = (max(-1, seccomp.resolve_syscall(arch, match[1])) for arch in architectures)
        if x86_64 == aarch64 == -1:
            raise SystemExit(f"libseccomp knows no call {match[1]}; take it out of {TABLE.name}")
        return f"{match[1]} = [{x86_64}, {aarch64}]"

    def known(number: int) -> bool:
        try:
            return bool(seccomp.resolve_syscall(seccomp.Arch.X86_64, number))
        except ValueError:
            return False

    newest = max(number for number in range(NEWEST_AT_MOST) if known(number))
    table = re.sub(r"^newest = \d+", f"newest = {newest}", table, flags=re.MULTILINE)
    return re.sub(r"^(\w+) = \[.*\]$", row, table, flags=re.MULTILINE)


if __name__ == "__main__":
    now = TABLE.read_text()
    right = numbered(now)
    if "--check" not in sys.argv:
        TABLE.write_text(right)
    elif now != right:
        raise SystemExit(f"{TABLE.name} differs from libseccomp's numbers; run this without --check")
