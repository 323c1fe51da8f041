"""Two-token prediction: the same logits also predict the token after the next, at first (modded-nanogpt, 2025-12-22).

The second target's weight is one half in the first third of the steps, falls to zero in the second, and is zero in the
last. No parameters are added. The source began with three targets; the third is left out.

Topic: loss
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-12-22_MultiTokenPrediction/README.md; arXiv:2404.19737
Claimed: modded-nanogpt (124M): 80 steps fewer and 3 of 123 seconds, with other changes, 14 runs. nanochat: the same or
    slightly worse a step, worse a second.
Constants: of the source
"""

from models.seams import F, Parts, Tensor, Wrapper


class TwoTokens(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.inner(x_BTD)
        weight = 0.5 * min(1.0, 2 - 3 * self.context.progress)
        if weight > 0:
            logits_NV, target_N = logits_BTV[:, :-2].flatten(0, 1), self.context.tokens_BT[:, 2:].flatten()
            self.aux_loss = weight * F.cross_entropy(logits_NV, target_N)
        else:
            self.aux_loss = None
        return logits_BTV


def apply(parts: Parts) -> Parts:
    return parts.wrap(head=TwoTokens)
