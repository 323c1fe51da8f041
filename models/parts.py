"""The contract between a variant and the harness: what a variant may swap, and nothing else.

A variant is `apply(parts: Parts) -> Parts`, usually one `dataclasses.replace` that wraps a factory:

    def apply(parts):
        return replace(parts, embedding=lambda p: Smear(parts.embedding(p)))

Factories are called late, with the *final* Parts, so a wrapped component sees what later variants
changed. A wrapper keeps the module that it wraps under the name `inner`: initial weights are drawn by
(seed, parameter name) with `inner` left out, so wrapping a component does not move its start.

Shapes: B batch, T position, D model width, H query heads, G key heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:  # the track file is checked against these classes without loading torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

# Read by pydantic when a track is parsed.
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Every size of the base model. Raises ValueError where sizes do not fit each other."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    vocab_size: int
    num_layers: int
    dim: int
    """Model width D."""
    num_heads: int
    """Query heads H; the head width K is dim / num_heads."""
    num_kv_heads: int
    """Key and value heads G; below num_heads they are grouped (arXiv:2305.13245)."""
    ffn_dim: int
    """Hidden width of the feed-forward, of each expert where there are experts."""
    tie_embeddings: bool = False
    """Whether the head's matrix is the token embedding's (arXiv:1608.05859)."""
    rope_base: float = 10_000.0
    """Base of the rotary angles (arXiv:2104.09864)."""
    dropout: float = 0.0
    """Probability on the output of attention and feed-forward, while training."""
    num_experts: int = 0
    """0 for a dense feed-forward, else the experts of each layer."""
    top_k: int = 2
    """Experts that each token is sent to."""
    balance_weight: float = 0.01
    """Weight of the load-balancing loss (arXiv:2101.03961, section 2.2)."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "num_layers", "dim", "num_heads", "num_kv_heads", "ffn_dim", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim ({self.dim}) over num_heads ({self.num_heads}) must be an even whole number")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1")
        if self.num_experts < 0 or 0 < self.num_experts < self.top_k:
            raise ValueError(f"num_experts ({self.num_experts}) must be 0, or top_k ({self.top_k}) or more")

    @property
    def head_dim(self) -> int:
        """Head width K."""
        return self.dim // self.num_heads


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Learning rates and the schedule. Raises ValueError where a fraction is out of range."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    muon_lr: float
    """Of the matrices inside the blocks."""
    embed_lr: float
    """Of everything in the token embedding."""
    head_lr: float
    """Of the matrices in the head."""
    scalar_lr: float
    """Of gains, biases and matrices too thin to orthogonalise, wherever they are."""
    muon_momentum: float = 0.95
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-10
    weight_decay: float = 0.0
    """Decoupled (arXiv:1711.05101), on every matrix and on no gain."""
    muon_weight_decay: float | None = None
    """Of the matrices that Muon moves, where it is another one."""
    warmup_fraction: float = 0.0
    """Share of the steps over which the learning rate rises linearly."""
    warmdown_fraction: float = 0.0
    """Share of the steps over which it falls linearly towards zero; 0 keeps it constant."""

    def __post_init__(self) -> None:
        for name in ("warmup_fraction", "warmdown_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} ({getattr(self, name)}) must lie between 0 and 1")


class Output(NamedTuple):
    """What a model returns; the harness computes the cross-entropy from the logits itself."""

    logits_BTV: Tensor
    aux_loss: Tensor | None
    """Added to the training loss (router balance); None where the model has no such loss."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a variant may swap. Data, budget, seeds, clock, loss and evaluation are not here."""

    model: ModelConfig
    optim: OptimConfig
    embedding: Callable[[Parts], nn.Module]
    """tokens_BT -> x_BTD"""
    query_key: Callable[[Parts, int], nn.Module]
    """(q_BTHK, k_BTGK) -> the same shapes; the base adds rotary positions. The int is the layer."""
    attention: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, causal"""
    feed_forward: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD; the base builds `experts` where the model has some"""
    experts: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, a `models.moe.MixtureOfExperts`; a dense model has none"""
    block: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, residual connections included"""
    head: Callable[[Parts], nn.Module]
    """x_BTD -> logits_BTV"""
    optimizer: Callable[[nn.Module, OptimConfig], list[Optimizer]]
    """Together the optimizers must cover every parameter once."""
    schedule: Callable[[int, int, OptimConfig], float]
    """(step, num_steps, config) -> what every learning rate is multiplied by in that step"""
