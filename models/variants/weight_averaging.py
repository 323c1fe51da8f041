"""Weight averaging: the run ends in an exponential average of its last weights (Polyak and Juditsky, 1992; parameter-golf).

The average forgets over five percent of the steps. It is written into the weights after the last step.

Topic: optimizer
Source: https://doi.org/10.1137/0330046; https://github.com/openai/parameter-golf
Claimed: parameter-golf's records average with a decay of 0.997 over some 7,000 steps; alone nothing that was verified
Constants: of the source, its 333 steps of memory as a share of the steps
"""

from models.seams import Any, OptimConfig, Optimizer, Parts, nn, replace, torch


class Averaged(Optimizer):
    def __init__(self, inner: Optimizer, parts: Parts) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self.context = inner, parts.context
        self.state, self.param_groups = inner.state, inner.param_groups

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        self.state, self.param_groups = self.inner.state, self.inner.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.inner.step()
        forgotten = min(1.0, 20 / self.context.num_steps)
        for parameter in [parameter for group in self.param_groups for parameter in group["params"]]:
            average = self.state[parameter].setdefault("average", parameter.clone()).lerp_(parameter, forgotten)
            if self.context.step + 1 == self.context.num_steps:
                parameter.copy_(average)


def apply(parts: Parts) -> Parts:
    def optimizer(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
        return [Averaged(inner, model.parts) for inner in parts.optimizer(model, config)]  # type: ignore[arg-type]

    return replace(parts, optimizer=optimizer)
