"""Value embeddings: tables of their own, added to the values of every other layer through a gate (nanochat, 2026-01-17).

Each token brings values that do not depend on its context: many parameters, almost no arithmetic. The last layer has a
table, and every second one before it. Tables and gates start at zero, the gate thus at one.

Topic: attention
Source: https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-17); https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-12-29_VeSkipGates/README.md
Claimed: modded-nanogpt (124M, to 3.28 nats): 4.66 to 4.41 minutes with the first form, 40 runs; gates on them about
    0.004 nats, 7 runs. nanochat: better by steps, operations and time, no number.
Constants: of the source (12 channels, factor 2, every other layer)
"""

from models.seams import Attention, Linear, Parts, Table, Tensor, Wrapper, nn, replace


class ValueEmbedding(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.value_table = Table(parts.model.vocab_size, attention.value.out_features)
        self.value_gate = Linear(12, parts.model.num_kv_heads, zero=True)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK, k_BTGK, v_BTGK = self.inner(x_BTD)
        extra_BTGK = self.value_table(self.context.tokens_BT).view_as(v_BTGK)
        return q_BTHK, k_BTGK, v_BTGK + 2 * self.value_gate(x_BTD[..., :12]).sigmoid()[..., None] * extra_BTGK


def apply(parts: Parts) -> Parts:
    def projection(final: Parts, layer: int, attention: Attention) -> nn.Module:
        inner = parts.projection(final, layer, attention)
        return ValueEmbedding(inner, final, layer, attention) if (final.model.num_layers - layer) % 2 else inner

    return replace(parts, projection=projection)
