"""Late untying: the head uses the embedding's table for two thirds of the steps, then its own (modded-nanogpt, 2025).

Rare words get the head's gradient while they have seen little; later embedding and head go their own ways. While tied,
the head's matrix follows the table, so that it starts from it. The table's rows have unit variance, hence the factor.

Topic: head
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-12-22_MultiTokenPrediction/README.md
Claimed: modded-nanogpt (124M): tying again 55 steps fewer, with other FP8 scales, 9 runs; untying late 80 steps fewer,
    together with predicting several tokens, 14 runs; alone nothing measured
Constants: of the source (two thirds)
"""

from models.seams import Parts, Tensor, Wrapper, nn, torch


class Shown(Wrapper):
    def forward(self, tokens_BT: Tensor) -> Tensor:
        table = next(module for module in self.modules() if isinstance(module, nn.Embedding))
        self.context.seen["table"] = table.weight * table.embedding_dim**-0.5
        return self.inner(tokens_BT)


class LateUntied(Wrapper):
    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.context.progress >= 2 / 3:
            return self.inner(x_BTD)
        table_VD = self.context.seen["table"]
        name, weight_VD = next(one for one in self.inner.named_parameters() if one[1].shape == table_VD.shape)
        with torch.no_grad():
            weight_VD.copy_(table_VD)
        return torch.func.functional_call(self.inner, {name: table_VD}, x_BTD)


def apply(parts: Parts) -> Parts:
    return parts.wrap(embedding=Shown, head=LateUntied)
