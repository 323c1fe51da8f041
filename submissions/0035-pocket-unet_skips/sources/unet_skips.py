"""U-net skips: add each early block's output, times a learned share, to the input of its mirror block (modded-nanogpt).

The last block gets what the first one put out, the last but one what the second put out, and so on inwards, so that
late blocks need not carry early results through the stream. Each share is one number that starts at one.

Topic: block
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2024-11-10_UNetDoubleLr
Claimed: record 11, together with doubled learning rates: 7.8 to 7.23 minutes to 3.28 nats at 124M parameters; nothing
    measured alone. A year later removing the last of five skips cost about 0.0025 nats (2025-11-18_RefineSkip).
    nanochat's log of 2026-01-16 calls one skip slightly worse. 5-dollar-llm (pull request 82, 88M parameters, one seed
    each), together with value residuals and x0 lambdas: -0.255, -0.078 and -0.037 nats at 8M, 20M and 100M tokens.
    universe-lm (1M parameters, one seed): +0.008, called null.
Constants: of the source
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn


class Skip(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.mirror = parts.model.num_layers - 1 - layer
        if layer > self.mirror:
            self.skip_share = Vector(1, start=1.0)

    def forward(self, x_BTD: Tensor) -> Tensor:
        outputs = self.context.seen.setdefault("block_outputs", {})
        if self.layer > self.mirror:
            x_BTD = x_BTD + self.skip_share.weight * outputs[self.mirror]
        outputs[self.layer] = self.inner(x_BTD)
        return outputs[self.layer]


def apply(parts: Parts) -> Parts:
    return parts.wrap(block=Skip)
