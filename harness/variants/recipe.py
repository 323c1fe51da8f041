"""Recipes by name: the sources and cost of their variants, the model that they build, and its initial values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.core.errors import LlmbenchError
from harness.core.project import Project, derive_seed
from harness.variants.source import VariantSource, read_variant

if TYPE_CHECKING:
    from torch import nn

    from models.parts import ModelConfig, OptimConfig, Parts

BASE = "base"


def parse_recipe(recipe: str) -> tuple[str, ...]:
    """`base+first+second` -> ("first", "second"). Raises LlmbenchError where it has another form."""
    base, *variants = recipe.split("+")
    if base != BASE or not all(variants):
        raise LlmbenchError(f"recipe '{recipe}' must read `{BASE}` or `{BASE}+variant+variant`")
    if len(set(variants)) != len(variants):
        raise LlmbenchError(f"recipe '{recipe}' names a variant twice; leave one out")
    return tuple(variants)


def format_recipe(variants: tuple[str, ...]) -> str:
    """("first", "second") -> `base+first+second`."""
    return "+".join((BASE, *variants))


def recipe_sources(project: Project, recipe: str) -> dict[str, VariantSource]:
    """The checked sources of a recipe's variants, in order."""
    return {name: read_variant(project, name) for name in parse_recipe(recipe)}


def recipe_cost(sources: dict[str, VariantSource]) -> int:
    """Statements of all variants of a recipe together."""
    return sum(source.cost for source in sources.values())


def _import_apply(source: VariantSource) -> Callable[[Parts], Parts]:
    """Import exactly the text that was checked and digested, and return its `apply`."""
    module = ModuleType(f"models.variants.{source.name}")
    sys.modules[module.__name__] = module  # dataclasses and typing look their module up by name
    exec(compile(source.text, str(source.path), "exec"), module.__dict__)
    apply: Callable[[Parts], Parts] = module.__dict__["apply"]
    return apply


class _Traced:
    """A factory that a variant set, which records whether building the model used it."""

    def __init__(self, factory: Callable[..., Any], variant: str, component: str) -> None:
        self.factory, self.variant, self.component, self.used = factory, variant, component, False

    def __call__(self, *arguments: Any) -> Any:
        self.used = True
        return self.factory(*arguments)


@dataclass(frozen=True)
class Recipe:
    """The base with a recipe's variants applied, ready to build a model."""

    parts: Parts
    traces: tuple[_Traced, ...]
    renew: Callable[[], Recipe]
    """Applies the same recipe again; its models share no object with this one's."""

    def build(self) -> nn.Module:
        """The model before its parameters are drawn. Raises LlmbenchError where two variants conflict."""
        from models.gpt import GPT

        model = GPT(self.parts)
        for place, trace in enumerate(self.traces):
            name, part = trace.variant, trace.component
            if trace.used or part not in MODEL_COMPONENTS:
                continue
            if rivals := [later.variant for later in self.traces[place + 1 :] if later.component == part]:
                raise LlmbenchError(
                    f"variants '{name}' and '{rivals[-1]}' conflict: both replace {part}; "
                    f"leave one out, or let '{rivals[-1]}' wrap `parts.{part}`"
                )
            if part == "experts" and not self.parts.model.num_experts:
                raise LlmbenchError(
                    f"variant '{name}' changes experts, and the model of this track has none; leave it out, or "
                    f"use it on a mixture-of-experts track (one with model.num_experts)"
                )
            raise LlmbenchError(f"variant '{name}' changes {part}, which nothing in this recipe uses; leave it out")
        return model


MODEL_COMPONENTS = ("embedding", "query_key", "attention", "feed_forward", "experts", "block", "head")


def apply_recipe(sources: dict[str, VariantSource], model: ModelConfig, optim: OptimConfig) -> Recipe:
    """Apply a recipe's variants in order. Raises LlmbenchError where a variant's code fails or returns no Parts."""
    from models.gpt import base
    from models.parts import Parts

    parts, traces = base(model, optim), []
    for source in sources.values():
        try:
            changed = _import_apply(source)(parts)
        except Exception as error:  # a variant's code may raise anything; all of it is the variant's error
            raise LlmbenchError(f"variant '{source.name}' failed: {type(error).__name__}: {error}") from error
        if not isinstance(changed, Parts):
            raise LlmbenchError(
                f"variant '{source.name}': apply returned {type(changed).__name__}, not Parts; "
                f"end it with `return replace(parts, ...)`"
            )
        if changed.model.vocab_size != model.vocab_size:
            raise LlmbenchError(f"variant '{source.name}' changes vocab_size, which belongs to the track; leave it")
        for field in fields(Parts):
            factory = getattr(changed, field.name)
            if callable(factory) and factory is not getattr(parts, field.name):
                trace = _Traced(factory, source.name, field.name)
                traces.append(trace)
                changed = replace(changed, **{field.name: trace})  # type: ignore[arg-type]
        parts = changed
    return Recipe(parts, tuple(traces), lambda: apply_recipe(sources, model, optim))


def canonical_name(name: str) -> str:
    """A parameter's name without the wrappers around it: `embedding.inner.weight` -> `embedding.weight`."""
    return ".".join(part for part in name.split(".") if part != "inner")


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw every parameter from its own random stream, keyed by (seed, name): no parameter affects another's values.

    Each module that owns parameters draws them in `reset_parameters`, PyTorch's convention. Raises LlmbenchError where
    one has none, or where two parameters would share a stream.
    """
    import torch

    owners: dict[str, str] = {}
    done: set[nn.Parameter] = set()  # a tied parameter is drawn by its first owner
    for prefix, module in model.named_modules():
        own = {n: p for n, p in module.named_parameters(prefix=prefix, recurse=False) if p not in done}
        done |= set(own.values())
        if own and not callable(getattr(module, "reset_parameters", None)):
            raise LlmbenchError(
                f"{type(module).__name__} owns {', '.join(own)} but has no reset_parameters(); define it, "
                f"so that the harness can draw the initial values"
            )
        drawn = {}
        for name, parameter in own.items():
            key = canonical_name(name)
            if key in owners:
                raise LlmbenchError(f"parameters {owners[key]} and {name} share the random stream {key}; rename one")
            owners[key] = name
            torch.manual_seed(derive_seed("weights", seed, key))
            module.reset_parameters()
            drawn[name] = parameter.detach().clone()
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(drawn[name])
