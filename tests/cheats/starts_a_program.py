"""Spawns a process, which neither the clock nor the confinement of this one would cover."""

import subprocess
from dataclasses import replace


def apply(parts):
    subprocess.run(["true"], check=True)
    return replace(parts)
