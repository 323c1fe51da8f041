"""z-loss: keep the softmax's normaliser near one (Chowdhery et al., 2022, arXiv:2204.02311).

The training loss gets the square of its logarithm, times 1e-4: a remedy against logits that drift in long runs at low
precision.

Topic: loss
Source: arXiv:2204.02311
Claimed: stability at scale; nothing measured on the loss
Constants: of the source
"""

from models.seams import Parts, Tensor, Wrapper


class ZLoss(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.inner(x_BTD)
        self.aux_loss = 1e-4 * logits_BTV.float().logsumexp(-1).square().mean()
        return logits_BTV


def apply(parts: Parts) -> Parts:
    return parts.wrap(head=ZLoss)
