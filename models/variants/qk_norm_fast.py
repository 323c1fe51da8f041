"""QK norm and twice Muon's learning rate: the norm bounds attention's logits (Wortsman et al., 2023, arXiv:2309.14322).

`qk_norm` at the track's rates asks for less than its sources do: they use the norm to train at rates that would diverge
without it. RMSNorm with gains on each head's queries and keys, before the positions.

Topic: attention
Source: arXiv:2309.14322 (section 3.1), arXiv:2010.04245; the factor two: record 11 of modded-nanogpt, which has the
    norm and doubled its rates, https://github.com/KellerJordan/modded-nanogpt
Claimed: with the norm and other measures, small models trained by AdamW reach similar losses over orders of magnitude
    of the rate. universe-lm, 1M parameters, one seed, at one rate: -0.0138 and -0.0185 nats against two controls.
Constants: of the source; the factor is carried over from another model
"""

from models.seams import Parts, RMSNorm, Tensor, Wrapper, nn, replace


class QKNorm(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.query_norm = RMSNorm(parts.model.head_dim)
        self.key_norm = RMSNorm(parts.model.head_dim)

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(self.query_norm(q_BTHK), self.key_norm(k_BTGK))


def apply(parts: Parts) -> Parts:
    optim = replace(parts.optim, muon_lr=2 * parts.optim.muon_lr)
    return replace(parts.wrap(query_key=QKNorm), optim=optim)
