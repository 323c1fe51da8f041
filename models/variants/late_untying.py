"""Late untying: embedding and head stay equal for two thirds of the steps, then part (modded-nanogpt, 2025).

Early on a rare token's embedding learns from the head's gradient, which is dense; later the two need to differ. Until
then both matrices get the sum of their gradients at one rate, the head's, so that they move alike together with the
optimizer's memory of them. The matrix starts small and is scaled up on the way in, as where the base ties.

Topic: embedding
Source:
    https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2025-12-22_MultiTokenPrediction
Claimed: tying again, with other FP8 scales: 55 steps fewer at 124M parameters, 9 runs (2025-12-19_RetieLMHead). Untying
    at two thirds, together with predicting several tokens and smaller changes: 80 steps fewer, 14 runs; nothing
    measured alone.
Constants: of the source
"""

from models.seams import Any, Embedding, Linear, OptimConfig, Parts, nn, replace, torch


def first(kind: type[Embedding] | type[Linear], component: nn.Module) -> Any:
    return next(module for module in component.modules() if isinstance(module, kind))


def scaled(embedding: nn.Module, final: Parts) -> nn.Module:
    first(Embedding, embedding).scale = final.model.dim**0.5
    return embedding


def apply(parts: Parts) -> Parts:
    def optimizer(model: nn.Module, optim: OptimConfig) -> list[torch.optim.Optimizer]:
        table: Any = first(Embedding, model.get_submodule("embedding")).weight
        head: Any = first(Linear, model.get_submodule("head")).weight

        def tie(*_: Any) -> None:
            if parts.context.step == 0:
                head.data.copy_(table)
            if parts.context.progress < 2 / 3:
                table.grad = head.grad = table.grad + head.grad

        optimizers = parts.optimizer(model, optim)
        optimizers[0].register_step_pre_hook(tie)
        return optimizers

    model = replace(parts.model, tie_embeddings=False)
    optim = replace(parts.optim, embed_lr=parts.optim.head_lr)
    return replace(parts.wrap(embedding=scaled), model=model, optim=optim, optimizer=optimizer)
