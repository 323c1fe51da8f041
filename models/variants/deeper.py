"""Deeper: twice the layers, each with half the weights (Kaplan et al., 2020, arXiv:2001.08361, figure 5).

At one number of parameters, does the track want more steps of thought or wider ones?

Topic: model
Source: arXiv:2001.08361, section 3.1
Claimed: at one number of parameters outside the embedding the shape moves the loss by a few percent at most
Constants: ours: the nearest width that the heads divide
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    unit = 2 * parts.model.num_heads
    dim = unit * round(parts.model.dim * 0.5**0.5 / unit)
    model = replace(parts.model, num_layers=2 * parts.model.num_layers, dim=dim, ffn_dim=4 * dim)
    return replace(parts, model=model)
