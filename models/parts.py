"""The contract between a variant and the harness: what a variant may swap, and nothing else.

A variant is `apply(parts: Parts) -> Parts`, usually one `wrap` that puts a class around a component:

    def apply(parts):
        return parts.wrap(embedding=Smear)

`Smear` is a `models.seams.Wrapper`. Factories are called late, with the *final* Parts, so a wrapped component sees what
later variants changed. A wrapper keeps the module that it wraps under the name `inner`: initial weights are drawn by
(seed, parameter name) with `inner` left out, so wrapping a component does not move its start.

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
    """Of everything in the token embedding, and of tables elsewhere."""
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
    """Added to the training loss: what the modules' attributes `aux_loss` add up to; None where no module has one."""


@dataclass(kw_only=True)
class Context:
    """What a component may know besides its input. The harness and the model write it; components read it.

    Where a model is scored, `progress` is 1, whatever the weights' age: a score depends on weights and tokens alone.
    """

    step: int = 1
    """Steps that were done before this one."""
    num_steps: int = 1
    tokens_BT: Tensor | None = None
    """The input of this forward pass; None outside of one."""
    seen: dict[str, Any] = field(default_factory=dict)
    """What a component leaves for later ones of the same forward pass; emptied before and after each."""

    @property
    def progress(self) -> float:
        """Share of the steps that are done: 0 in the first step, 1 where the model is scored."""
        return self.step / self.num_steps


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a variant may swap. Data, budget, seeds, clock, loss and evaluation are not here."""

    model: ModelConfig
    optim: OptimConfig
    embedding: Callable[[Parts], nn.Module]
    """tokens_BT -> x_BTD"""
    query_key: Callable[[Parts, int], nn.Module]
    """(q_BTHK, k_BTGK) -> the same shapes; the base adds rotary positions. The int is the layer."""
    projection: Callable[[Parts, int, Attention], nn.Module]
    """x_BTD -> (q_BTHK, k_BTGK, v_BTGK), by the matrices of the attention module that it is given"""
    mixing: Callable[[Parts, int, Attention], nn.Module]
    """(q_BTHK, k_BTGK, v_BTGK) -> y_BTHK, causal: what mixes positions"""
    output: Callable[[Parts, int, Attention], nn.Module]
    """(y_BTHK, x_BTD) -> y_BTD, by the attention's last matrix; x_BTD is the attention's input"""
    attention: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, causal; the base is made of the four above"""
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
    muon: type[Muon]
    """Moves the matrices in the blocks; a subclass overrides how it orthogonalises, scales or decays."""
    lr_scale: Callable[[str, nn.Parameter], float]
    """(name, parameter) -> what the learning rate of this parameter is multiplied by; in the base 1"""
    schedule: Callable[[int, int, OptimConfig], float]
    """(step, num_steps, config) -> what every learning rate is multiplied by in that step"""
    batch_shape: Callable[[float, int, int], tuple[int, int]]
    """(progress, sequences, length) -> sequences and length of the next batch. It gets the share of the run's tokens
    that were handed out before, and the track's own shape. A length divides the track's. The referee counts tokens, and
    each run gets the track's number of them: smaller batches mean more steps."""
    separator: int
    """Token that begins each document. It belongs to the track."""
    context: Context
    """One object for all components of a model."""

    def wrap(self, **wrappers: Callable[..., Any]) -> Parts:
        """Parts with each named component inside the given class, which is called with (inner, final parts, ...).

        What follows is what the factory gets besides the parts: the layer, and for the parts of attention its module.
        For `muon` the class is a subclass of `models.optim.Muon`, whose methods come before those of other variants.
        """
        return replace(self, **{name: self._wrapped(name, wrapper) for name, wrapper in wrappers.items()})

    def _wrapped(self, name: str, wrapper: Any) -> Any:
        given = getattr(self, name)
        if name == "muon":
            return wrapper if self.muon in wrapper.__mro__ else type(wrapper.__name__, (wrapper, self.muon), {})
        return lambda final, *place: wrapper(given(final, *place), final, *place)
