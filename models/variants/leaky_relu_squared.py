"""Leaky squared ReLU: square a ReLU that keeps half of what is negative (parameter-golf pull request 493, 2026).

No hidden unit is ever without a gradient, and the result is still never negative.

Topic: feed-forward
Source: https://github.com/openai/parameter-golf/pull/493; ablation in the repository at 4908dc4,
    records/track_10min_16mb/2026-03-23_LeakyReLU_LegalTTT_ParallelMuon/README.md
Claimed: -0.0021 bits per byte, 11 layers of width 512, ten minutes on 8 H100, one seed; another entry there saw -0.003
    on less data and next to nothing on more. nanochat: slightly better a step, worse by the clock (log of 2026-03-24).
Constants: of the source
"""

from models.seams import F, FeedForward, Parts, Tensor, replace


class LeakyFeedForward(FeedForward):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.leaky_relu(self.up(x_BTD), 0.5).square())


def apply(parts: Parts) -> Parts:
    return replace(parts, feed_forward=lambda final, layer: LeakyFeedForward(final.model))
