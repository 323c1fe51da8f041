"""An auxiliary loss that is NaN: whatever is compared with it is not greater."""

from dataclasses import replace

from models.moe import MixtureOfExperts


class Undefined(MixtureOfExperts):
    def forward(self, x_BTD):
        y_BTD = super().forward(x_BTD)
        self.aux_loss = self.aux_loss * float("nan")
        return y_BTD


def apply(parts):
    experts = replace(parts.model, num_experts=2, top_k=1)
    return replace(parts, model=experts, feed_forward=lambda final, layer: Undefined(final.model))
