"""Linear to zero: the rate falls from the first step on (Bergsma et al., 2025, arXiv:2502.15938).

Topic: schedule
Source: arXiv:2502.15938
Claimed: better than cosine to a tenth at 111M to 1.7B parameters
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, optim=replace(parts.optim, warmdown_fraction=1.0))
