"""Partial rotary: a quarter of each head's channels rotates, the others know no position (GPT-NeoX-20B, 2022).

Most channels may then compare what tokens are, wherever they stand. Of the base's frequencies every fourth is kept,
which are those of a head a quarter as wide; the other pairs of channels stand still.

Topic: attention
Source: arXiv:2204.06745; the same quarter in parameter-golf,
    https://github.com/openai/parameter-golf (2026-03-21_11L_XSA4_EMA_PartialRoPE_LateQAT_1.1248)
Claimed: parameter-golf: 1.1280 to 1.1250 bits per byte together with another change (11 layers, three seeds);
    nanochat's LOG, 2026-03-24: slightly worse
Constants: of the source
"""

from models.seams import Parts, nn, torch


def quarter(inner: nn.Module, parts: Parts, layer: int) -> nn.Module:
    for frequency_J in inner.buffers():  # the rotary's
        frequency_J[torch.arange(len(frequency_J)) % 4 != 0] = 0
    return inner


def apply(parts: Parts) -> Parts:
    return parts.wrap(query_key=quarter)
