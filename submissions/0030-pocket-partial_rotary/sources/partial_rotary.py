"""Partial rotary: a quarter of each head's channels rotates, the rest has no position (GPT-NeoX-20B, arXiv:2204.06745).

Channels without position compare what tokens are, wherever they stand. Of the base's frequencies every fourth is kept,
which are those of a head a quarter as wide.

Topic: attention
Source: arXiv:2204.06745; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-16, 2026-03-24); arXiv:2603.11611
Claimed: the sources disagree. A tenth of the channels converges like all of them (Khan et al., 2026); nanochat: half no
    better, a quarter slightly worse. GPT-NeoX: nothing measured.
Constants: of the source (a quarter)
"""

from models.seams import Parts, nn, torch


def quarter(inner: nn.Module, parts: Parts, layer: int) -> nn.Module:
    for frequency_J in inner.buffers():  # the rotary's
        frequency_J[torch.arange(len(frequency_J)) % 4 != 0] = 0
    return inner


def apply(parts: Parts) -> Parts:
    return parts.wrap(query_key=quarter)
