"""Leaky squared ReLU: negative inputs count half before the square (parameter-golf; nanochat, 2026-03-24).

Topic: feed-forward
Source: https://github.com/openai/parameter-golf/pull/493, ablation in the repository at 4908dc4,
    records/track_10min_16mb/2026-03-23_LeakyReLU_LegalTTT_ParallelMuon/README.md;
    https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-03-24)
Claimed: parameter-golf (11 layers of width 512, ten minutes on 8 H100): -0.0021 bits per byte, one seed; another entry
    saw -0.003 on less data and next to nothing on more. nanochat: better a step, worse a second; no number
Constants: of the source (slope one half)
"""

from models.seams import F, FeedForward, Parts, Tensor, replace


class Activated(FeedForward):
    def activate(self, hidden_BTF: Tensor) -> Tensor:
        return F.leaky_relu(hidden_BTF, 0.5).square()


def apply(parts: Parts) -> Parts:
    return replace(parts, feed_forward=lambda final, layer: Activated(final.model))
