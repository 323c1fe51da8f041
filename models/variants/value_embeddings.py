"""Value embeddings: tables looked up by the token, added to the values of every second layer (modded-nanogpt, 2024).

Many parameters and almost no arithmetic: what a token hands on need not pass through the residual stream. A gate for
each key head scales what is added; it starts at one and the tables start at zero, that is at the base model.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2024-12-04_ValueEmbed; tables
    at zero since its record 49, gates since its record 55; every second layer, and one table for each of them:
    https://github.com/karpathy/nanochat/blob/master/dev/LOG.md, 2026-01-17
Claimed: modded-nanogpt: 4.41 minutes to a loss of 3.28 instead of 4.66 (124M parameters, 40 runs), about 0.004 nats by
    the gates (7 runs); nanochat: better by steps and by the clock, no number
Constants: of the source
"""

from models.seams import Attention, Linear, Parts, Tensor, Wrapper, nn


class Table(nn.Embedding):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class ValueEmbedding(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.value_table = Table(parts.model.vocab_size, parts.model.num_kv_heads * parts.model.head_dim)
        self.value_gate = Linear(12, parts.model.num_kv_heads, zero=True)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK, k_BTGK, v_BTGK = self.inner(x_BTD)
        gate_BTG1 = 2 * self.value_gate(x_BTD[..., :12]).sigmoid()[..., None]
        return q_BTHK, k_BTGK, v_BTGK + gate_BTG1 * self.value_table(self.context.tokens_BT).view_as(v_BTGK)


def every_second(inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> nn.Module:
    """The last layer has a table, the one before it has none, and so on."""
    has_table = (parts.model.num_layers - layer) % 2 == 1
    return ValueEmbedding(inner, parts, layer, attention) if has_table else inner


def apply(parts: Parts) -> Parts:
    return parts.wrap(projection=every_second)
