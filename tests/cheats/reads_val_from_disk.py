"""Reads the val split: the cached tokens lie on the same disk."""

import glob
import os
from dataclasses import replace


def apply(parts):
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for path in glob.glob(f"{cache}/llmbench/data/*/val.bin"):
        with open(path, "rb") as file:
            file.read(1)
    return replace(parts)
