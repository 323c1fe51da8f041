"""Logit softcap: bound the logits by 15 tanh(logits / 15) (modded-nanogpt, 2025-01-04; Gemma 2, arXiv:2408.00118).

Topic: head
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-01-04_SoftCap/README.md; arXiv:2408.00118; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-16, 2026-03-02)
Claimed: modded-nanogpt (124M): 15 instead of 30 needs 1,390 steps instead of 1,490, 80 runs; 30 instead of none
    -0.0053 nats, one seed. nanochat: 5 to 30 about equal but for 5, 20 best by a thousandth.
Constants: of the source
"""

from models.seams import Parts, Tensor, Wrapper


class Softcap(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.inner(x_BTD)
        return 15 * (logits_BTV / 15).tanh()


def apply(parts: Parts) -> Parts:
    return parts.wrap(head=Softcap)
