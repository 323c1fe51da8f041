"""NorMuon: divide each row of Muon's update by a running root mean square of its own (Li et al., 2025, arXiv:2510.05491).
"""

from models.seams import Any, Muon, Parts, Tensor


class NorMuon(Muon):
    def orthogonalize(self, updates_Smn: Tensor, state: dict[str, Any]) -> Tensor:
        directions_Smn = super().orthogonalize(updates_Smn, state)
        mean_Sm1 = directions_Smn.square().mean(-1, keepdim=True)
        second_Sm1 = state.setdefault("second", mean_Sm1.clone()).lerp_(mean_Sm1, 0.05)
        normed_Smn = directions_Smn * (second_Sm1 + 1e-10).rsqrt()
        return normed_Smn * (directions_Smn.norm() / (normed_Smn.norm() + 1e-10))


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=NorMuon)
