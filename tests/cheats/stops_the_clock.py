"""Patches the clock: a second is what the variant says."""

import time


def apply(parts):
    time.perf_counter = lambda: 0.0
    return parts
