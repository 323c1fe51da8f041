"""Weight averaging: at the end, move the weights 0.6 of the way to their running mean (modded-nanogpt, track 3, 2026).

While the learning rate falls, weights still swing around what they approach; their mean swings less, but lags. So the
source mixes both, once, after the last step. The mean begins at 2,000 of 2,720 steps, with a horizon of 150, here the
same shares. The token embedding is left as it is.

Topic: optimizer
Source: https://github.com/KellerJordan/modded-nanogpt/pull/325 (track 3, result 45)
Claimed: 30 of 2,750 steps fewer to the same loss, 10 seeds; its schedule has not reached zero when the run ends, the
    track's has; parameter-golf with a plain average: 0.0006 bits per byte; nanochat: averaging did not help
Constants: of the source, with steps as shares
"""

from models.seams import Any, OptimConfig, Parts, nn, replace, torch


def apply(parts: Parts) -> Parts:
    context = parts.context

    def optimizer(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
        kept = set(model.get_submodule("embedding").parameters())

        @torch.no_grad()
        def average(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            done = context.step + 1
            for weight in {weight for group in optimizer.param_groups for weight in group["params"]} - kept:
                if done >= 0.735 * context.num_steps:
                    mean = optimizer.state[weight].setdefault("mean", weight.clone())
                    mean.lerp_(weight, min(1.0, 1 / (0.055 * context.num_steps)))
                    if done == context.num_steps:
                        weight.lerp_(mean, 0.6)

        optimizers = parts.optimizer(model, config)
        for one in optimizers:
            one.register_step_post_hook(average)
        return optimizers

    return replace(parts, optimizer=optimizer)
