"""The next token through attention: is_causal is off."""

from dataclasses import replace

from torch import nn

from models.gpt import Attention


class OpenAttention(Attention):
    def forward(self, x_BTD):
        q, k, v = (m(x_BTD).unflatten(-1, (-1, self.head_dim)) for m in (self.query, self.key, self.value))
        q, k, v = (t.transpose(1, 2) for t in (*self.query_key(q, k), v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(-2))


def apply(parts):
    return replace(parts, attention=OpenAttention)
