"""The dense base model: pre-norm blocks, rotary positions, causal attention, squared-ReLU feed-forward.

Shapes: B batch, T position, D model width, H query heads, G key heads, K head width, F feed-forward
width, V vocabulary. Every module that owns a parameter draws it in `reset_parameters`, PyTorch's
convention, which is how the harness gives each parameter a random stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import RMSNorm, causal_attention, squared_relu
from models.moe import MixtureOfExperts
from models.optim import Muon, linear_schedule, muon_and_adamw
from models.parts import Context, ModelConfig, OptimConfig, Output, Parts


class Linear(nn.Linear):
    """A matrix without bias; starts at variance 1/(3 fan-in), PyTorch's default, or at zero.

    A residual branch whose last matrix starts at zero leaves the stream as it is (arXiv:1901.09321).
    """

    def __init__(self, in_features: int, out_features: int, *, zero: bool = False) -> None:
        self.zero = zero
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        if self.zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.normal_(self.weight, std=(3 * self.in_features) ** -0.5)


class Embedding(nn.Embedding):
    """tokens_BT -> x_BTD of unit variance.

    A tied matrix is small, as the logits need it, and scaled up on the way in (arXiv:1706.03762, 3.4).
    """

    def __init__(self, config: ModelConfig) -> None:
        self.scale = config.dim**0.5 if config.tie_embeddings else 1.0
        super().__init__(config.vocab_size, config.dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / self.scale)

    def forward(self, input: Tensor) -> Tensor:
        x_BTD = super().forward(input)
        return x_BTD * self.scale if self.scale != 1.0 else x_BTD


class Rotary(nn.Module):
    """Rotary positions on queries and keys (arXiv:2104.09864), halves paired instead of neighbours."""

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        frequency_J = base ** -torch.linspace(0, 1, head_dim // 2 + 1, dtype=torch.float32)[:-1]
        self.register_buffer("frequency_J", frequency_J, persistent=False)
        self.frequency_J: Tensor

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        position_T = torch.arange(q_BTHK.size(1), dtype=torch.float32, device=q_BTHK.device)
        angle_TJ = torch.outer(position_T, self.frequency_J)
        cos_TJ, sin_TJ = angle_TJ.cos(), angle_TJ.sin()
        cos_T1K = torch.cat((cos_TJ, cos_TJ), dim=-1)[:, None, :]
        sin_T1K = torch.cat((-sin_TJ, sin_TJ), dim=-1)[:, None, :]
        return _rotate(q_BTHK, cos_T1K, sin_T1K), _rotate(k_BTGK, cos_T1K, sin_T1K)


def _rotate(x_BTHK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    x = x_BTHK.float()
    return (x * cos_T1K + x.roll(x.size(-1) // 2, -1) * sin_T1K).type_as(x_BTHK)


class Attention(nn.Module):
    """Causal scaled-dot-product attention; key heads may be fewer than query heads (arXiv:2305.13245).

    It owns the matrices. What is done with them are four parts, each of which can be wrapped alone.
    """

    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__()
        config = parts.model
        self.head_dim, self.dropout = config.head_dim, config.dropout
        self.query = Linear(config.dim, config.num_heads * self.head_dim)
        self.key = Linear(config.dim, config.num_kv_heads * self.head_dim)
        self.value = Linear(config.dim, config.num_kv_heads * self.head_dim)
        self.query_key = parts.query_key(parts, layer)
        self.out = Linear(config.num_heads * self.head_dim, config.dim, zero=True)
        self.projection = parts.projection(parts, layer, self)
        self.mixing = parts.mixing(parts, layer, self)
        self.output = parts.output(parts, layer, self)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_BTD -> (q_BTHK, k_BTGK, v_BTGK)."""
        q_BTHK, k_BTGK, v_BTGK = (
            matrix(x_BTD).unflatten(-1, (-1, self.head_dim)) for matrix in (self.query, self.key, self.value)
        )
        return q_BTHK, k_BTGK, v_BTGK

    def put_out(self, y_BTHK: Tensor, x_BTD: Tensor) -> Tensor:
        """y_BTHK -> y_BTD."""
        return self.out(y_BTHK.flatten(-2))

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BTHK, k_BTGK, v_BTGK = self.projection(x_BTD)
        q_BTHK, k_BTGK = self.query_key(q_BTHK, k_BTGK)
        y_BTD = self.output(self.mixing(q_BTHK, k_BTGK, v_BTGK), x_BTD)
        return F.dropout(y_BTD, self.dropout, self.training)


class Seam(nn.Module):
    """A function as a component, so that it can be wrapped like one. A method's owner does not become its child."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class FeedForward(nn.Module):
    """Two matrices with a squared ReLU between them (arXiv:2109.08668)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = Linear(config.dim, config.ffn_dim)
        self.down = Linear(config.ffn_dim, config.dim, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self.down(squared_relu(self.up(x_BTD)))
        return F.dropout(y_BTD, self.dropout, self.training)


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added to the residual stream after."""

    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(parts.model.dim)
        self.attention = parts.attention(parts, layer)
        self.feed_forward_norm = RMSNorm(parts.model.dim)
        self.feed_forward = parts.feed_forward(parts, layer)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class Head(nn.Module):
    """x_BTD -> logits_BTV; starts at zero, that is at the uniform distribution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim)
        self.out = Linear(config.dim, config.vocab_size, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(self.norm(x_BTD))


class GPT(nn.Module):
    """The components of a Parts, put together."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        """What it is made of: an optimizer's factory finds the other parts here."""
        self.embedding = parts.embedding(parts)
        self.blocks = nn.ModuleList([parts.block(parts, layer) for layer in range(parts.model.num_layers)])
        self.head = parts.head(parts)
        if parts.model.tie_embeddings:
            table = next(module for module in self.embedding.modules() if isinstance(module, nn.Embedding))
            head = next(module for module in self.head.modules() if isinstance(module, Linear))
            head.weight = table.weight

    def forward(self, tokens_BT: Tensor) -> Output:
        context = self.parts.context
        context.tokens_BT = tokens_BT
        context.seen.clear()
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(x_BTD)
        context.tokens_BT = None
        context.seen.clear()
        aux_losses = [loss for module in self.modules() if (loss := getattr(module, "aux_loss", None)) is not None]
        return Output(logits_BTV, torch.stack(aux_losses).sum() if aux_losses else None)


def _feed_forward(parts: Parts, layer: int) -> nn.Module:
    return parts.experts(parts, layer) if parts.model.num_experts else FeedForward(parts.model)


def base(model: ModelConfig, optim: OptimConfig, separator: int = 0) -> Parts:
    """The recipe `base`: what the first variant of a recipe is applied to."""
    return Parts(
        model=model,
        optim=optim,
        embedding=lambda parts: Embedding(parts.model),
        query_key=lambda parts, layer: Rotary(parts.model.head_dim, parts.model.rope_base),
        projection=lambda parts, layer, attention: Seam(attention.project),
        mixing=lambda parts, layer, attention: Seam(causal_attention),
        output=lambda parts, layer, attention: Seam(attention.put_out),
        attention=Attention,
        feed_forward=_feed_forward,
        experts=lambda parts, layer: MixtureOfExperts(parts.model),
        block=Block,
        head=lambda parts: Head(parts.model),
        optimizer=muon_and_adamw,
        muon=Muon,
        lr_scale=lambda name, parameter: 1.0,
        schedule=linear_schedule,
        batch_shape=lambda progress, sequences, length: (sequences, length),
        separator=separator,
        context=Context(),
    )
