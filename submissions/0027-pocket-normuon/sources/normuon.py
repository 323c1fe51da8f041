"""NorMuon: divide each row of Muon's update by a running root mean square of its own (Li et al., arXiv:2510.05491).

Orthogonalising evens out a matrix's singular values, not the lengths of its rows: without it some neurons move far more
than others. After it, each matrix's update is brought back to the length that Muon gave it, as modded-nanogpt does, so
that the recipe's learning rate stays. The paper instead fixes the root mean square at 0.2.

Topic: optimizer
Source: arXiv:2510.05491; https://github.com/KellerJordan/modded-nanogpt/pull/144 (record 41)
Claimed: 11.31 % better training efficiency than Muon at 1.1B parameters; modded-nanogpt's record 41: 15 of 2,330 steps
    and 0.7 of 141 seconds less, 20 runs; its track 3, rates retuned: 3,250 steps against 3,375, 20 runs each; nanochat:
    a very small improvement, no number
Constants: of the source, beta2 0.95
"""

from models.seams import Any, Muon, Parts, Tensor


class NorMuon(Muon):
    def orthogonalize(self, updates_Smn: Tensor, state: dict[str, Any]) -> Tensor:
        directions_Smn = super().orthogonalize(updates_Smn, state)
        mean_Sm1 = directions_Smn.square().mean(-1, keepdim=True)
        second_Sm1 = state.setdefault("second", mean_Sm1.new_zeros(mean_Sm1.shape)).lerp_(mean_Sm1, 0.05)
        normed_Smn = directions_Smn * second_Sm1.clamp_min(1e-10).rsqrt()
        return normed_Smn * (
            directions_Smn.norm(dim=(-2, -1), keepdim=True) / (normed_Smn.norm(dim=(-2, -1), keepdim=True) + 1e-10)
        )


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=NorMuon)
