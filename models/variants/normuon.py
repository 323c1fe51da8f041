"""NorMuon: divide each row of Muon's update by a running root mean square of its own (Li et al., 2025, arXiv:2510.05491).

Muon's rows differ in size; rows that are large all the time then dominate a layer. The whole update keeps its norm.

Topic: optimizer
Source: arXiv:2510.05491; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-10)
Claimed: 11 % better training efficiency than Muon at 1.1B (authors). nanochat: a very small improvement.
Constants: of the source (second moment 0.95)
"""

from models.seams import Any, Muon, Parts, Tensor


class NorMuon(Muon):
    def orthogonalize(self, updates_Smn: Tensor, state: dict[str, Any]) -> Tensor:
        directions_Smn = super().orthogonalize(updates_Smn, state)
        mean_Sm1 = directions_Smn.square().mean(-1, keepdim=True)
        second_Sm1 = state.setdefault("second", 0 * mean_Sm1).lerp_(mean_Sm1, 0.05)
        normed_Smn = directions_Smn * (second_Sm1 + 1e-10).rsqrt()
        return normed_Smn * (directions_Smn.norm() / (normed_Smn.norm() + 1e-10))


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=NorMuon)
