"""More passes over tokens that were paid for: an auxiliary loss trains again on what earlier batches held.

The clock covers it, the count of tokens does not: only the inputs of the model are counted, and this calls its parts.
A reviewer sees a cross-entropy in a variant, or a module that keeps tokens.
"""

from dataclasses import replace

import torch
from torch import nn

from models.moe import MixtureOfExperts


class Watch(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, tokens_BT):
        if self.training and len(self.seen) < 4:
            self.seen.append(tokens_BT)
        return self.inner(tokens_BT)


class Replay(MixtureOfExperts):
    def __init__(self, config, built):
        super().__init__(config)
        self.built = built

    def forward(self, x_BTD):
        y_BTD = super().forward(x_BTD)
        embedding, head = self.built
        tokens_BT = torch.cat(embedding.seen) if self.training else None
        if tokens_BT is not None:
            logits_BTV = head(embedding.inner(tokens_BT[:, :-1]))
            loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
            self.aux_loss = self.aux_loss + loss
        return y_BTD


def apply(parts):
    built = [None, None]

    def embedding(final):
        built[0] = Watch(parts.embedding(final))
        return built[0]

    def head(final):
        built[1] = parts.head(final)
        return built[1]

    return replace(
        parts,
        model=replace(parts.model, num_experts=1, top_k=1),
        embedding=embedding,
        head=head,
        feed_forward=lambda final, layer: Replay(final.model, built),
    )
