"""Extra training tokens that no hook sees: the optimizer calls the model's `forward` past its hooks."""

from dataclasses import replace

from torch.optim import SGD


class Again(SGD):
    def __init__(self, model, lr):
        super().__init__(model.parameters(), lr=lr)
        self.model = model

    def step(self, closure=None):
        super().step(closure)
        tokens_BT = self.param_groups[0]["params"][0].new_zeros(4, 16).long()
        self.model.forward(tokens_BT)


def apply(parts):
    return replace(parts, optimizer=lambda model, config: [Again(model, config.scalar_lr)])
