"""The base model: pre-norm blocks, rotary positions, causal attention, squared-ReLU feed-forward or experts.

A module that creates parameters draws their initial values in `reset_parameters`, as in PyTorch. The harness calls this
method with a separate random stream for each parameter.

Shapes: B batch, T position, D model width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention, Rotary, Seam
from models.kernels import Linear, RMSNorm, causal_attention, squared_relu
from models.moe import MixtureOfExperts
from models.optim import Muon, linear_schedule, muon_and_adamw
from models.parts import Context, ModelConfig, OptimConfig, Output, Parts

__all__ = ["GPT", "Attention", "Block", "Embedding", "FeedForward", "Head", "Linear", "Rotary", "base"]


class Embedding(nn.Embedding):
    """tokens_BT -> x_BTD, with variance 1 before training.

    If embedding and head share one matrix, its initial standard deviation is D**-0.5, as the head needs. The output of
    the embedding is then multiplied by D**0.5 (arXiv:1706.03762, section 3.4).
    """

    def __init__(self, config: ModelConfig) -> None:
        self.scale = config.dim**0.5 if config.tie_embeddings else 1.0
        super().__init__(config.vocab_size, config.dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / self.scale)

    def forward(self, input: Tensor) -> Tensor:
        x_BTD = super().forward(input)
        return x_BTD * self.scale if self.scale != 1.0 else x_BTD


class FeedForward(nn.Module):
    """x_BTD -> y_BTD: two matrices with a squared ReLU between them (arXiv:2109.08668)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = Linear(config.dim, config.ffn_dim)
        self.down = Linear(config.ffn_dim, config.dim, zero=True)

    def activate(self, hidden_BTF: Tensor) -> Tensor:
        """hidden_BTF -> hidden_BTF: the activation between the two matrices."""
        return squared_relu(hidden_BTF)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self.down(self.activate(self.up(x_BTD)))
        return F.dropout(y_BTD, self.dropout, self.training)


class Block(nn.Module):
    """x_BTD -> x_BTD: attention, then feed-forward, each with a norm before it and a residual connection."""

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
    """x_BTD -> logits_BTV. The matrix starts at zero, so at first all tokens have the same probability."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim)
        self.out = Linear(config.dim, config.vocab_size, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(self.norm(x_BTD))


class GPT(nn.Module):
    """The model that `parts` describes: embedding, blocks, head. tokens_BT -> logits_BTV and the auxiliary loss."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        """The function that makes the optimizers reads the other parts here."""
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
        losses = [getattr(module, "aux_loss", None) for module in self.modules()]
        aux_losses = [loss for loss in losses if loss is not None]  # in one line, `:=` would break the compiled graph
        return Output(logits_BTV, torch.stack(aux_losses).sum() if aux_losses else None)


def _feed_forward(parts: Parts, layer: int) -> nn.Module:
    return parts.experts(parts, layer) if parts.model.num_experts else FeedForward(parts.model)


def base(model: ModelConfig, optim: OptimConfig, separator: int = 0) -> Parts:
    """The parts of the recipe `base`, without variants.

    `separator` is the id of the token that begins each document.
    """
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
