"""Attention sink: a learned logit a head in the softmax, to which a query attends for nothing (gpt-oss, 2025).

A softmax has to give its weight away; models then attend to the first token. Here each head has a logit of its own
that no value belongs to. It is one key more, in front of all others: zero but for a channel of its own, in which the
queries hold the logit.

Topic: attention
Source: arXiv:2508.10925; arXiv:2309.17453
Claimed: nothing measured on the loss; a placeholder token as a sink helps streaming (Xiao et al., 2023).
    universe-lm, on another stack: 0.0230 nats, within its noise (0.94M parameters, one seed).
Constants: of the source; the start at zero is ours
"""

from models.seams import Attention, F, Parts, Tensor, Vector, Wrapper, nn, torch


class Sink(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.sink = Vector(parts.model.num_heads, 1)

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        width = q_BTHK.size(-1)
        logit_BTH1 = width**0.5 * self.sink.weight.expand(*q_BTHK.shape[:-1], 1)
        q_BTHL = torch.cat((q_BTHK, logit_BTH1), -1) * (1 + 1 / width) ** 0.5  # L = K + 1; scores keep their scale
        q_BSHL, k_BSGL, v_BSGK = (F.pad(x, (0, 0, 0, 0, 1, 0)) for x in (q_BTHL, F.pad(k_BTGK, (0, 1)), v_BTGK))
        k_BSGL[:, 0, :, -1] = 1
        return self.inner(q_BSHL, k_BSGL, v_BSGK)[:, 1:]


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=Sink)
