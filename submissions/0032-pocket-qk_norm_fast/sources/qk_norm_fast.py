"""QK norm with twice the learning rates, which bounded attention logits should allow (Henry, 2020, arXiv:2010.04245).

QK norm alone was judged at rates that were tuned without it. It is said to keep large learning rates stable
(arXiv:2309.14322), so here every rate is doubled.

Topic: attention
Source: arXiv:2010.04245; arXiv:2309.14322
Claimed: stable training at far larger rates (Wortsman et al., 2023). universe-lm (1M parameters, one seed, at one
    rate): -0.0138 and -0.0185 nats against two controls
Constants: the factor of two is ours, one try; record 11 of modded-nanogpt, which has the norm, doubled its rates
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
    return replace(parts.wrap(query_key=QKNorm), lr_scale=lambda name, weight: 2 * parts.lr_scale(name, weight))
