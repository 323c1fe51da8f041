"""The base's optimizers, the rule that says which optimizer updates a parameter, and the learning-rate schedule."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.optim import AdamW, Optimizer

from models.muon import Muon, orthogonalize
from models.parts import OptimConfig, Parts

__all__ = ["Muon", "linear_schedule", "muon_and_adamw", "orthogonalize"]

# Matrices with fewer rows or columns, such as gates and routers, are updated by AdamW, as in modded-nanogpt. We assume
# that orthogonalising the updates of such thin matrices does not help.
MIN_MUON_SIDE = 16


def muon_and_adamw(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """The base's optimizers: Muon for the matrices in the blocks, AdamW for embeddings, head, vectors, thin matrices.

    The weight of an `nn.Embedding` is an embedding, wherever the module is in the model. If `parts.lr_scale` gives
    parameters of the same kind different factors on the learning rate, there is a parameter group for each factor.
    """
    parts = cast(Parts, model.parts)
    places: dict[str, dict[float, list[nn.Parameter]]] = {"blocks": {}, "embedding": {}, "head": {}, "scalar": {}}
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        thin = parameter.ndim < 2 or min(parameter.shape[-2:]) < MIN_MUON_SIDE
        place = "scalar" if thin else "embedding" if parameter in tables else name.partition(".")[0]
        groups = places[place if place in places else "blocks"]
        groups.setdefault(parts.lr_scale(name, parameter), []).append(parameter)

    def group(place: str, lr: float, **options: float) -> list[dict[str, Any]]:
        return [{"params": params, "lr": lr * scale, **options} for scale, params in places[place].items()]

    adamw = AdamW(
        [
            *group("embedding", config.embed_lr, weight_decay=config.weight_decay),
            *group("head", config.head_lr, weight_decay=config.weight_decay),
            *group("scalar", config.scalar_lr, weight_decay=0.0),
        ],
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    decay = config.weight_decay if config.muon_weight_decay is None else config.muon_weight_decay
    muon = parts.muon(
        group("blocks", config.muon_lr),
        lr=config.muon_lr,
        momentum=config.muon_momentum,
        weight_decay=decay,
        context=parts.context,
    )
    return [muon, adamw]


def linear_schedule(step: int, num_steps: int, config: OptimConfig) -> float:
    """The factor on all learning rates in a step: it rises linearly to 1, stays at 1, and falls linearly towards 0.

    `step` counts from 0. The factor is above 0 in every step.

    >>> [round(linear_schedule(s, 4, OptimConfig(muon_lr=1, embed_lr=1, head_lr=1, scalar_lr=1,
    ...     warmup_fraction=0.5, warmdown_fraction=0.5)), 2) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = config.warmup_fraction * num_steps
    warmdown = config.warmdown_fraction * num_steps
    rise = (step + 1) / warmup if step + 1 < warmup else 1.0
    fall = (num_steps - step) / warmdown if num_steps - step < warmdown else 1.0
    return min(rise, fall)
