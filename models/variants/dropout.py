"""Dropout of a tenth on the output of attention and feed-forward, while training (Srivastava et al., 2014; GPT-2).

GPT-2 trained with it. `pocket` sees less than half of its text once, so there should be nothing to regularise; this
asks whether the little model agrees.

Topic: block
Source: arXiv:2505.24788
Claimed: without dropout everything measured was better in one epoch, for BERT and for Pythia of 160M and 1.4B
    parameters; with dropout in the early steps alone it was worse as well.
Constants: of the source; a tenth is GPT-2's
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, dropout=0.1))
