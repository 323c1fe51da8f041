"""Causal attention with rotary positions. It consists of four components, each of which a variant can wrap.

Shapes: B batch, T position, D model width, H query heads, G key heads, K head width, J = K/2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import Linear
from models.parts import Parts


class Rotary(nn.Module):
    """Rotates queries and keys by angles that depend on their positions (RoPE, arXiv:2104.09864).

    Channel i is rotated together with channel i + K/2.
    """

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
    """x_BTD -> y_BTD: causal scaled-dot-product attention, with as many key heads as query heads or fewer.

    With fewer key heads, this is grouped-query attention (arXiv:2305.13245). The components `projection`, `query_key`,
    `mixing` and `output` are called one after the other; a variant can wrap each of them. The matrices `query`, `key`,
    `value` and `out` are attributes of this module, not of the components.
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
        """x_BTD -> (q_BTHK, k_BTGK, v_BTGK): queries, keys and values."""
        q_BTHK, k_BTGK, v_BTGK = (
            matrix(x_BTD).unflatten(-1, (-1, self.head_dim)) for matrix in (self.query, self.key, self.value)
        )
        return q_BTHK, k_BTGK, v_BTGK

    def put_out(self, y_BTHK: Tensor, x_BTD: Tensor) -> Tensor:
        """y_BTHK -> y_BTD: apply the matrix `out`.

        The attention's input `x_BTD` is not used here; a variant may use it.
        """
        return self.out(y_BTHK.flatten(-2))

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BTHK, k_BTGK, v_BTGK = self.projection(x_BTD)
        q_BTHK, k_BTGK = self.query_key(q_BTHK, k_BTGK)
        y_BTD = self.output(self.mixing(q_BTHK, k_BTGK, v_BTGK), x_BTD)
        return F.dropout(y_BTD, self.dropout, self.training)


class Seam(nn.Module):
    """A module that calls a function, so that the function can be wrapped like a module.

    If the function is a method, the object to which it belongs does not become a submodule.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)
