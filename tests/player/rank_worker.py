"""One of two processes that train together what test_ranks asks for; leaves what came of it in `rank-N.json`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.core.runs import Training
from harness.core.track import Track
from harness.player.device import set_up_torch
from harness.player.job import GiveUp, Job
from harness.player.ranks import ALONE, Ranks, RunEndedError, open_ranks
from harness.player.train import StopRequestedError, train
from harness.variants.recipe import Recipe, apply_recipe


class Spare(nn.Module):
    """A head with a parameter that no forward pass uses."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.spare = inner, nn.Parameter(torch.empty(3))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.spare)

    def forward(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.inner(x_BTD)
        return logits_BTV


class Drawing(torch.optim.SGD):
    """Adds noise from torch's stream."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(torch.randn_like(parameter), alpha=1e-3)


class Case:
    """The cases, each a training that all processes of a run take part in."""

    def __init__(self, folder: Path, ranks: Ranks = ALONE) -> None:
        self.folder, self.ranks = folder, ranks
        self.track = Track.model_validate_json((folder / "track.json").read_text())
        self.tokens = dict(np.load(folder / "tokens.npz"))
        self.rows: list[list[list[int]]] = []

    def train(self, name: str, track: Track | None = None, change: Any = None, **options: Any) -> Training:
        track = track or self.track
        built = apply_recipe({}, track.model, track.optim)
        parts = replace(built.parts, **(change(built.parts) if change else {}))
        recipe: Recipe = replace(built, parts=parts, renew=lambda: replace(built, parts=parts))
        job = Job.model_validate_json((self.folder / "job.json").read_text())
        (self.folder / name).mkdir(exist_ok=True)
        give_up = options.pop("give_up", None)
        job = job.model_copy(update={"folder": str(self.folder / name), "give_up": give_up})
        return train(track, recipe, self.tokens, job, lambda event: None, ranks=self.ranks, **options)

    def whole(self) -> Training:
        """Also keeps the rows that the model sees in training, but not where it is evaluated."""

        def spy(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if module.training:
                self.rows.append(args[0].tolist())

        def change(parts: Any) -> dict[str, Any]:
            def embedding(final: Any) -> nn.Module:
                module: nn.Module = parts.embedding(final)
                module.register_forward_pre_hook(spy)
                return module

            return {"embedding": embedding}

        return self.train("whole", change=change)

    def torn(self) -> Training:
        """Only the first process is asked to stop."""
        looks = iter([False, False, self.ranks.is_first])
        try:
            self.train("torn", should_stop=lambda: next(looks))
        except StopRequestedError:
            torch.manual_seed(99)
        else:
            raise AssertionError
        return self.train("torn")

    def diverging(self) -> Training:
        optim = replace(self.track.optim, head_lr=1e38)
        return self.train("diverging", self.track.model_copy(update={"optim": optim}))

    def hopeless(self) -> Training:
        return self.train("hopeless", give_up=GiveUp(step=2, dev_loss_nats=0.1))

    def parting(self) -> Training:
        """Each process moves its parameters by another amount."""

        class Own(torch.optim.SGD):
            def step(optimizer, closure: Any = None) -> None:  # type: ignore[override]  # noqa: N805
                super().step()
                with torch.no_grad():
                    optimizer.param_groups[0]["params"][0].add_(1e-6 * self.ranks.rank)

        return self.train(
            "parting", change=lambda parts: {"optimizer": lambda model, config: [Own(model.parameters(), lr=0.01)]}
        )

    def drawing(self) -> Training:
        """Dropout and experts, and an optimizer that draws."""
        model = replace(self.track.model, dropout=0.1, num_experts=4, top_k=2)
        return self.train(
            "drawing",
            self.track.model_copy(update={"model": model}),
            lambda parts: {"optimizer": lambda model, config: [Drawing(model.parameters(), lr=0.01)]},
        )

    def spare(self) -> Training:
        return self.train("spare", change=lambda parts: {"head": lambda final: Spare(parts.head(final))})


def outcome(case: Callable[[], Training]) -> Any:
    """What all processes must find alike."""
    try:
        training = case()
    except RunEndedError as error:
        return f"{type(error).__name__}: {error}"
    return json.loads(training.model_dump_json())


CASES = ("whole", "torn", "diverging", "hopeless", "parting", "drawing", "spare")


def main(folder: Path) -> None:
    track = Track.model_validate_json((folder / "track.json").read_text())
    set_up_torch(track)
    with open_ranks(track) as ranks:
        cases = Case(folder, ranks)
        found = {name: outcome(getattr(cases, name)) for name in CASES}
        found["rows"] = cases.rows
        (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
    os._exit(0)  # as harness/lab/torchrun.py does


if __name__ == "__main__":
    main(Path(sys.argv[1]))
