"""Reads the val split: the cached tokens lie on the same disk."""

import os
from dataclasses import replace


def apply(parts):
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for folder in os.listdir(f"{cache}/llmbench/data"):
        with open(f"{cache}/llmbench/data/{folder}/val.bin", "rb") as file:
            file.read(1)
    return replace(parts)
