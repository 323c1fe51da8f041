"""Dropout of a tenth on the output of attention and feed-forward (Srivastava et al., 2014).

No token is seen twice, so there is little to regularise: a check of what is known.

Topic: model
Source: https://jmlr.org/papers/v15/srivastava14a.html; arXiv:2505.24788
Claimed: in one epoch everything was better without it, for BERT, Pythia-160M and 1.4B (Liu et al., 2025)
Constants: of the source (a tenth, as in arXiv:1706.03762)
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, dropout=0.1))
