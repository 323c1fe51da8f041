"""Predicting two tokens: the same logits are trained on the token after the next as well (modded-nanogpt, 2025).

Early on, what comes soon is a useful hint of what comes next. The further target weighs a half in the first third of
the steps, falls to nothing in the second, and is gone in the last. No parameter is added. The source has a third target
as well, in the first third of the steps, which is left out here.

Topic: loss
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2025-12-22_MultiTokenPrediction
    and, with a head for each further token, arXiv:2404.19737
Claimed: 80 steps for a record with other changes (124M parameters, 14 runs); arXiv:2404.19737: helps large models only
Constants: of the source
"""

from models.seams import F, Parts, Tensor, Wrapper


class TwoTokens(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV = self.inner(x_BTD)
        weight = min(0.5, 1 - 1.5 * self.context.progress)
        self.aux_loss = None
        if weight > 0:
            targets_BT = F.pad(self.context.tokens_BT[:, 2:], (0, 2), value=-100)  # the last two have none
            self.aux_loss = weight * F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        return logits_BTV


def apply(parts: Parts) -> Parts:
    return parts.wrap(head=TwoTokens)
