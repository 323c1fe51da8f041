"""The contract between a variant and the harness: everything that a variant may change.

A variant is `apply(parts: Parts) -> Parts`, usually one `wrap` that puts a class around a component:

    def apply(parts):
        return parts.wrap(embedding=Smear)

`Smear` is a `models.seams.Wrapper`. Factories are called after all variants, with the *final* Parts, so a wrapped
component sees what later variants changed. A wrapper keeps the module that it wraps under the name `inner`. Initial
weights are drawn by (seed, parameter name) with `inner` left out, so wrapping a component does not change them.

Shapes: B batch, T position, D model width, H query heads, G key heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:  # the track file is checked against these classes without loading torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from models.attention import Attention
    from models.muon import Muon

# Read by pydantic when a track is parsed.
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Every size of the base model. Raises ValueError where sizes do not fit together."""

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
    """Whether head and token embedding share one matrix (arXiv:1608.05859)."""
    rope_base: float = 10_000.0
    """Base of the rotary angles (arXiv:2104.09864)."""
    dropout: float = 0.0
    """Dropout probability on the outputs of attention and feed-forward, in training only."""
    num_experts: int = 0
    """Experts per layer; 0 for a dense feed-forward."""
    top_k: int = 2
    """Experts per token."""
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
    """Learning rate of the matrices inside the blocks."""
    embed_lr: float
    """Learning rate of the token embedding and of every other `nn.Embedding`."""
    head_lr: float
    """Learning rate of the matrices in the head."""
    scalar_lr: float
    """Learning rate of gains, biases and matrices too thin to orthogonalise, wherever they are."""
    muon_momentum: float = 0.95
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-10
    weight_decay: float = 0.0
    """Decoupled weight decay (arXiv:1711.05101); gains, biases and thin matrices have none."""
    muon_weight_decay: float | None = None
    """Weight decay of the matrices that Muon updates; None for `weight_decay`."""
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
    """Sum of the modules' `aux_loss`, added to the training loss; None where no module has one."""


@dataclass(kw_only=True)
class Context:
    """What a component may know besides its input. The harness and the model write it.

    In every evaluation `progress` is 1, so that a score depends only on weights and tokens.
    """

    step: int = 1
    """Steps done before this one."""
    num_steps: int = 1
    tokens_BT: Tensor | None = None
    """The input of this forward pass; None outside of one."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Values that a component passes to later ones of the same forward pass; emptied before and after each pass."""

    @property
    def progress(self) -> float:
        """Share of the steps that are done: 0 in the first step, 1 in an evaluation."""
        return self.step / self.num_steps


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that a variant may change. Data, budget, seeds, clock, loss and evaluation are not here."""

    model: ModelConfig
    optim: OptimConfig
    embedding: Callable[[Parts], nn.Module]
    """tokens_BT -> x_BTD"""
    query_key: Callable[[Parts, int], nn.Module]
    """(q_BTHK, k_BTGK) -> the same shapes; the base adds rotary positions. The int is the layer."""
    projection: Callable[[Parts, int, Attention], nn.Module]
    """x_BTD -> (q_BTHK, k_BTGK, v_BTGK), with the matrices of the given attention module"""
    mixing: Callable[[Parts, int, Attention], nn.Module]
    """(q_BTHK, k_BTGK, v_BTGK) -> y_BTHK; mixes the positions, causally"""
    output: Callable[[Parts, int, Attention], nn.Module]
    """(y_BTHK, x_BTD) -> y_BTD, with the attention's last matrix; x_BTD is the attention's input"""
    attention: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, causal; the base's consists of the four components above"""
    feed_forward: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD; the base builds `experts` where the model has some"""
    experts: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, a `models.moe.MixtureOfExperts`; a dense model has none"""
    block: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, residual connections included"""
    head: Callable[[Parts], nn.Module]
    """x_BTD -> logits_BTV"""
    optimizer: Callable[[nn.Module, OptimConfig], list[Optimizer]]
    """(model, config) -> optimizers that together cover every parameter exactly once"""
    muon: type[Muon]
    """Updates the matrices in the blocks; a subclass overrides how it orthogonalises, scales or decays."""
    lr_scale: Callable[[str, nn.Parameter], float]
    """(name, parameter) -> factor on the learning rate of this parameter; 1 in the base"""
    schedule: Callable[[int, int, OptimConfig], float]
    """(step, num_steps, config) -> factor on every learning rate in that step"""
    batch_shape: Callable[[float, int, int], tuple[int, int]]
    """(progress, sequences, length) -> sequences and length of the next batch. `progress` is the share of the
    run's tokens used so far; the arguments `sequences` and `length` are the track's. A length must divide the track's.
    Every run gets the track's number of tokens, so smaller batches mean more steps."""
    separator: int
    """Token that begins each document; set by the track."""
    context: Context
    """Shared by all components of a model."""

    def wrap(self, **wrappers: Callable[..., Any]) -> Parts:
        """Parts with each named component wrapped by the given class, which is called with (inner, final parts, ...).

        The further arguments are the factory's: the layer, and for the parts of attention the attention module.
        For `muon` give a subclass of `models.optim.Muon`; its methods override those of earlier variants.
        """
        return replace(self, **{name: self._wrapped(name, wrapper) for name, wrapper in wrappers.items()})

    def _wrapped(self, name: str, wrapper: Any) -> Any:
        given = getattr(self, name)
        if name == "muon":
            return wrapper if self.muon in wrapper.__mro__ else type(wrapper.__name__, (wrapper, self.muon), {})
        return lambda final, *place: wrapper(given(final, *place), final, *place)
