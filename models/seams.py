"""Everything that most variants import. Start with the class `Wrapper`.

A *seam* is a component that a variant may wrap or replace. models/parts.py lists all seams, and docs/variants.md has an
example for most of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from models.attention import Attention, Rotary
from models.gpt import Embedding, FeedForward
from models.kernels import Linear, RMSNorm, causal_attention, squared_relu
from models.moe import MixtureOfExperts
from models.muon import Muon
from models.optim import linear_schedule
from models.parts import Context, OptimConfig, Parts

__all__ = [
    "Any",
    "Attention",
    "Context",
    "Embedding",
    "F",
    "FeedForward",
    "Linear",
    "MixtureOfExperts",
    "Muon",
    "OptimConfig",
    "Optimizer",
    "Parts",
    "RMSNorm",
    "Rotary",
    "Table",
    "Tensor",
    "Vector",
    "Wrapper",
    "causal_attention",
    "linear_schedule",
    "nn",
    "replace",
    "squared_relu",
    "torch",
]


class Wrapper(nn.Module):
    """Base class for `parts.wrap`: a module around a component, which is its attribute `inner`.

    A subclass defines `forward`, with the same inputs and outputs as `inner`. A subclass with parameters also defines
    `__init__(self, inner, parts, *place)`, where `place` is the number of the layer and, for parts of the attention,
    the attention module, and calls `super().__init__(inner, parts, *place)` first. To add a term to the training loss,
    set `self.aux_loss` in each call of `forward`.
    """

    inner: Any
    """The wrapped component."""
    aux_loss: Tensor | None

    def __init__(self, inner: nn.Module, parts: Parts, layer: int = 0, attention: Attention | None = None) -> None:
        super().__init__()
        self.inner, self.layer, self.context = inner, layer, parts.context


class Table(nn.Embedding):
    """An embedding table that starts at zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Vector(nn.Module):
    """A learned tensor `weight` of the given shape, all entries of which start at `start`: for gains and gates."""

    def __init__(self, *shape: int, start: float = 0.0) -> None:
        super().__init__()
        self.start, self.weight = start, nn.Parameter(torch.empty(*shape))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.start)
