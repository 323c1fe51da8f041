"""`Parts`: everything that a variant may change.

A variant is a function `apply(parts: Parts) -> Parts`. Usually it puts a class around a component with `wrap`:

    def apply(parts):
        return parts.wrap(embedding=Smear)

`Smear` is a subclass of `models.seams.Wrapper`. The functions in `Parts` that build the components are called after all
variants were applied, with the *final* Parts, which has the changes of all variants. A wrapper's attribute `inner` is
the module that it wraps. The initial value of a parameter depends on the seed and on the parameter's name without
`inner`. Therefore wrapping a component does not change its initial weights.

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

# Settings for pydantic, which checks these classes when it reads a track.
_STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes of the base model. Raises ValueError if they do not fit together."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    vocab_size: int
    num_layers: int
    dim: int
    """Model width D."""
    num_heads: int
    """Number of query heads, H. The head width K is dim / num_heads."""
    num_kv_heads: int
    """Number of key and value heads, G. If it is below num_heads, query heads share them (arXiv:2305.13245)."""
    ffn_dim: int
    """Hidden width of the feed-forward or, in a model with experts, of each expert."""
    tie_embeddings: bool = False
    """Whether head and token embedding share one matrix (arXiv:1608.05859)."""
    rope_base: float = 10_000.0
    """Base of the frequencies of the rotary positions (arXiv:2104.09864)."""
    dropout: float = 0.0
    """Probability that dropout sets an output of attention or feed-forward to zero, in training only."""
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
            raise ValueError(f"dim ({self.dim}) divided by num_heads ({self.num_heads}) must be an even whole number")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1")
        if self.num_experts < 0 or 0 < self.num_experts < self.top_k:
            raise ValueError(f"num_experts ({self.num_experts}) must be 0 or at least top_k ({self.top_k})")

    @property
    def head_dim(self) -> int:
        """Head width K."""
        return self.dim // self.num_heads


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The hyperparameters of optimizers and schedule. Raises ValueError if a fraction is not between 0 and 1."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    muon_lr: float
    """Learning rate of the matrices inside the blocks."""
    embed_lr: float
    """Learning rate of the token embedding and of every other `nn.Embedding`."""
    head_lr: float
    """Learning rate of the matrices in the head."""
    scalar_lr: float
    """Learning rate of gains, biases and matrices with fewer than 16 rows or columns, anywhere in the model."""
    muon_momentum: float = 0.95
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-10
    weight_decay: float = 0.0
    """Decoupled weight decay (arXiv:1711.05101). Gains, biases and the matrices of `scalar_lr` have no weight decay."""
    muon_weight_decay: float | None = None
    """Weight decay of the matrices that Muon updates. If None, they have `weight_decay` too."""
    warmup_fraction: float = 0.0
    """Fraction of the training steps, at the start, in which the learning rates rise linearly."""
    warmdown_fraction: float = 0.0
    """Fraction of the training steps, at the end, in which the learning rates fall linearly towards zero."""

    def __post_init__(self) -> None:
        for name in ("warmup_fraction", "warmdown_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} ({getattr(self, name)}) must lie between 0 and 1")


class Output(NamedTuple):
    """What a model returns. The cross-entropy is computed from the logits outside the model."""

    logits_BTV: Tensor
    aux_loss: Tensor | None
    """Sum of `aux_loss` over all modules, which is added to the training loss; None if no module has one."""


@dataclass(kw_only=True)
class Context:
    """What a component can read besides its input. The harness sets all fields; a component may write only into `seen`.

    In every evaluation `progress` is 1, so that the val loss depends only on weights and tokens.
    """

    step: int = 1
    """Number of training steps done before the present one."""
    num_steps: int = 1
    tokens_BT: Tensor | None = None
    """The model's input tokens in the present forward pass; None between forward passes."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Values that a component leaves for later ones in the same forward pass. Emptied before and after each pass."""

    @property
    def progress(self) -> float:
        """Fraction of the training steps already done: 0 in the first step, 1 in every evaluation."""
        return self.step / self.num_steps


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that a variant may change. Data, token budget, seeds, loss and evaluation cannot be changed.

    A field with a type `Callable[..., nn.Module]` is a function that builds a component. The text below the field gives
    inputs and outputs of the component. An `int` argument is the number of the layer, counted from 0.
    """

    model: ModelConfig
    optim: OptimConfig
    embedding: Callable[[Parts], nn.Module]
    """tokens_BT -> x_BTD"""
    query_key: Callable[[Parts, int], nn.Module]
    """(q_BTHK, k_BTGK) -> (q_BTHK, k_BTGK); the base rotates both by their positions"""
    projection: Callable[[Parts, int, Attention], nn.Module]
    """x_BTD -> (q_BTHK, k_BTGK, v_BTGK): queries, keys and values, by the matrices of the given attention module"""
    mixing: Callable[[Parts, int, Attention], nn.Module]
    """(q_BTHK, k_BTGK, v_BTGK) -> y_BTHK: for each query, a weighted mean of the values up to its position"""
    output: Callable[[Parts, int, Attention], nn.Module]
    """(y_BTHK, x_BTD) -> y_BTD: applies the attention module's last matrix; x_BTD is the attention's input"""
    attention: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, causal; in the base it consists of the four components above"""
    feed_forward: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD; in the base it calls `experts` if the track has experts"""
    experts: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, a `models.moe.MixtureOfExperts`; used only if the track has experts"""
    block: Callable[[Parts, int], nn.Module]
    """x_BTD -> x_BTD, residual connections included"""
    head: Callable[[Parts], nn.Module]
    """x_BTD -> logits_BTV"""
    optimizer: Callable[[nn.Module, OptimConfig], list[Optimizer]]
    """(model, config) -> list of optimizers; each parameter must be in exactly one of them"""
    muon: type[Muon]
    """The optimizer of the matrices in the blocks. A variant sets a subclass, usually with `wrap`."""
    lr_scale: Callable[[str, nn.Parameter], float]
    """(name, parameter) -> factor on the learning rate of this parameter; 1 in the base"""
    schedule: Callable[[int, int, OptimConfig], float]
    """(step, num_steps, config) -> factor on all learning rates in this step, which counts from 0"""
    batch_shape: Callable[[float, int, int], tuple[int, int]]
    """(progress, sequences, length) -> number of sequences in the next batch, and their length in tokens. The argument
    `progress` is the fraction of the training tokens already used; `sequences` and `length` are the track's values. The
    returned length must divide the track's length. Every run trains on the track's number of tokens, so smaller batches
    mean more steps."""
    separator: int
    """The id of the token that begins each document; set by the track, and only to be read."""
    context: Context
    """The same object for all components of a model; only to be read, except `seen`."""

    def wrap(self, **wrappers: Callable[..., Any]) -> Parts:
        """`Parts` in which a class is put around each named component: `parts.wrap(block=MyBlock)`.

        The class is called with the wrapped component, the final `Parts`, and the other arguments of the function in
        the field: the number of the layer (not for `embedding` and `head`) and, for `projection`, `mixing` and
        `output`, the attention module. For `muon`, give a subclass of `models.optim.Muon`; its methods override the
        methods that earlier variants set.
        """
        return replace(self, **{name: self._wrapped(name, wrapper) for name, wrapper in wrappers.items()})

    def _wrapped(self, name: str, wrapper: Any) -> Any:
        given = getattr(self, name)
        if name == "muon":
            return wrapper if self.muon in wrapper.__mro__ else type(wrapper.__name__, (wrapper, self.muon), {})
        return lambda final, *place: wrapper(given(final, *place), final, *place)
