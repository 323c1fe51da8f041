"""An optimizer that covers every parameter when it is looked at, and drops most of them after the first step."""

from dataclasses import replace

from torch.optim import SGD


class Dropping(SGD):
    def step(self, closure=None):
        super().step(closure)
        del self.param_groups[0]["params"][1:]


def apply(parts):
    return replace(parts, optimizer=lambda model, config: [Dropping(model.parameters(), lr=config.scalar_lr)])
