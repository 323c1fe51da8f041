"""What one writes without llmbench: the base model of a track and its training loop in plain PyTorch, AdamW only."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.track import Track
from models.parts import ModelConfig


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, key_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.norm_1, self.norm_2 = nn.RMSNorm(config.dim, eps=1e-6), nn.RMSNorm(config.dim, eps=1e-6)
        self.query = nn.Linear(config.dim, width, bias=False)
        self.key = nn.Linear(config.dim, key_width, bias=False)
        self.value = nn.Linear(config.dim, key_width, bias=False)
        self.out = nn.Linear(width, config.dim, bias=False)
        self.up = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.norm_1(x)
        q, k, v = (
            layer(normed).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.down(F.relu(self.up(self.norm_2(x))).square())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class PlainGPT(nn.Module):
    def __init__(self, config: ModelConfig, seq_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        frequency = config.rope_base ** -torch.linspace(0, 1, config.head_dim // 2 + 1)[:-1]
        angle = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequency)
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def train_plainly(track: Track, train_N: Tensor, tell: Callable[[float], None], *, compiled: bool = False) -> None:
    """The usual loop, without an end; `tell` gets each step's tokens a second."""
    torch.manual_seed(0)
    batch, length = track.budget.batch_sequences, track.budget.seq_len
    model = PlainGPT(track.model, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def eager(tokens: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    loss_of = torch.compile(eager) if compiled else eager
    while True:
        started = time.perf_counter()
        starts = torch.randint(len(train_N) - length, (batch,))
        tokens = torch.stack([train_N[start : start + length + 1] for start in starts])
        loss_of(tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        tell(batch * length / (time.perf_counter() - started))
