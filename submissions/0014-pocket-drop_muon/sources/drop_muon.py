"""Drop-Muon: in each step a random number of the first matrices rests (Gruntkowska et al., 2025, arXiv:2510.02239).

A cut is drawn anew in every step, uniformly. Matrices before it, in the order of the model, keep weights and momentum;
those behind it are moved by Muon. So the first matrices move least, and orthogonalising costs half as much. The source
also saves their gradients, which are computed here in any case. The original project cuts between blocks only.

Topic: optimizer
Source: arXiv:2510.02239; https://github.com/Open-Superintelligence-Lab/5-dollar-llm/pull/84
Claimed: convolutional networks on MNIST, Fashion-MNIST and CIFAR-10 reach the same accuracy up to 1.4 times faster; the
    original project states no result
Constants: of the source: a uniform cut
"""

from models.seams import Any, Muon, Parts, torch


class DropMuon(Muon):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        cut = torch.rand(()).item()
        for group in self.param_groups:
            for parameter in group["params"][: int(cut * len(group["params"]))]:
                parameter.grad = None
        super().step()


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=DropMuon)
