"""Reads a file without a single import but torch."""

from dataclasses import replace

import torch


def apply(parts):
    torch.from_file("leaderboard.csv", size=1, dtype=torch.uint8)
    return replace(parts)
