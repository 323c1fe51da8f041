"""Fading decay: Muon's weight decay falls linearly to zero over the run (nanochat, 2026; modded-nanogpt, 2025).

Decay keeps weights small while rates are high; at the end it only takes away what was learned. It is multiplied by the
learning rate in any case, so that in the warm-down it falls with the square.

Topic: optimizer
Source: https://github.com/karpathy/nanochat/blob/92d63d4/dev/LOG.md, 2026-01-10
Claimed: better than a constant one, no number; modded-nanogpt: 10 to 15 steps, by its author, with cautious decay
Constants: of the source; the decay that it falls from is the track's
"""

from models.seams import Muon, Parts, Tensor


class FadingDecay(Muon):
    def decay(self, parameter: Tensor, update: Tensor, rate: float) -> None:
        super().decay(parameter, update, rate * (1 - self.context.progress))


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=FadingDecay)
