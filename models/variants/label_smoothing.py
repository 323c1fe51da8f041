"""Label smoothing: a tenth of the target is spread over all tokens (Szegedy et al., 2015, arXiv:1512.00567).

With smoothing e the cross-entropy becomes (1 - e) CE + e mean(-log p), that is CE + e (target's logit - mean logit):
the normaliser cancels. It reads its targets from the input, so each sequence's last position has none.

Topic: loss
Source: arXiv:1512.00567, section 7; in a language model's decoder: arXiv:1706.03762, section 5.4
Claimed: 0.2 % accuracy on ImageNet; arXiv:1706.03762: hurts perplexity and improves BLEU, no number
Constants: of the source
"""

from models.seams import Parts, Tensor, Wrapper


class Smoothing(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV = self.inner(x_BTD)
        target_BS1 = logits_BTV.gather(-1, self.context.tokens_BT[:, 1:, None])
        self.aux_loss = 0.1 * (target_BS1.mean() - logits_BTV.mean(-1)[:, :-1].mean())
        return logits_BTV


def apply(parts: Parts) -> Parts:
    return parts.wrap(head=Smoothing)
