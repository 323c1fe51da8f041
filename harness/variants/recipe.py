"""Functions for a recipe such as `base+token_smear`: its variants' sources and cost, its model, its initial values."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import Project, derive_seed
from harness.variants.conflicts import (
    LONGEST_MESSAGE,
    Traced,
    check_configs,
    check_muon,
    check_schedules,
    check_used,
    checked_optimizer,
)
from harness.variants.source import VariantSource, read_variant

if TYPE_CHECKING:
    from torch import nn

    from models.parts import ModelConfig, OptimConfig, Parts

BASE = "base"
LONGEST_LINE = 100
"""Characters of a line of code in an error."""
UNKNOWN_ARGUMENT = re.compile(r"TypeError: (\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def parse_recipe(recipe: str) -> tuple[str, ...]:
    """`base+first+second` -> ("first", "second"). Raises LlmbenchError if `recipe` has another form."""
    base, *variants = recipe.split("+")
    if base != BASE or not all(variants):
        raise LlmbenchError(f"recipe '{recipe}' must have the form `{BASE}` or `{BASE}+variant+variant`")
    if len(set(variants)) != len(variants):
        raise LlmbenchError(f"recipe '{recipe}' names a variant twice; name it once")
    return tuple(variants)


def format_recipe(variants: tuple[str, ...]) -> str:
    """("first", "second") -> `base+first+second`."""
    return "+".join((BASE, *variants))


def recipe_sources(project: Project, recipe: str) -> dict[str, VariantSource]:
    """The checked sources of a recipe's variants, in the order of the recipe."""
    return {name: read_variant(project, name) for name in parse_recipe(recipe)}


def recipe_cost(sources: dict[str, VariantSource]) -> int:
    """Sum of the costs of a recipe's variants, in statements."""
    return sum(source.cost for source in sources.values())


def _import_apply(source: VariantSource) -> Callable[[Parts], Parts]:
    """Run exactly the text that was checked, and return its function `apply`."""
    module = ModuleType(f"models.variants.{source.name}")
    sys.modules[module.__name__] = module  # dataclasses and typing look their module up by name
    exec(compile(source.text, str(source.path), "exec"), module.__dict__)
    apply: Callable[[Parts], Parts] = module.__dict__["apply"]
    return apply


@dataclass(frozen=True)
class Recipe:
    """The base with a recipe's variants applied, ready to build a model."""

    parts: Parts
    traces: tuple[Traced, ...]
    renew: Callable[[], Recipe]
    """Applies the recipe again. Models built from the new Recipe share no object with models built from this one."""

    def build(self) -> nn.Module:
        """The model, before its initial values are drawn.

        Raises LlmbenchError if one variant replaces what another variant set, or if the model does not use what a
        variant set.
        """
        from models.gpt import GPT

        model = GPT(self.parts)
        for component in MODEL_COMPONENTS:
            check_used(self.traces, component, f"wrap `parts.{component}`")
        if sum(trace.component == "schedule" for trace in self.traces) > 1:
            fresh = self.renew()  # a schedule may keep state between calls
            check_schedules(fresh.parts, fresh.traces)
        for trace in self.traces:
            name, part = trace.variant, trace.component
            if trace.used or part not in MODEL_COMPONENTS:
                continue
            if part == "experts" and not self.parts.model.num_experts:
                raise LlmbenchError(
                    f"variant '{name}' changes experts, but the model of this track has none; leave the variant out, "
                    f"or use it on a mixture-of-experts track (one with model.num_experts)"
                )
            raise LlmbenchError(
                f"variant '{name}' changes {part}, which nothing in this recipe uses; leave the variant out"
            )
        return model


MODEL_COMPONENTS = (
    "embedding", "query_key", "projection", "mixing", "output", "attention", "feed_forward", "experts", "block", "head"
)  # fmt: skip


def apply_recipe(
    sources: dict[str, VariantSource], model: ModelConfig, optim: OptimConfig, separator: int = 0
) -> Recipe:
    """Apply a recipe's variants to the base, in the order of the recipe.

    `separator` is the id of the token that begins each document. Raises LlmbenchError if a variant's code fails or does
    not return Parts.
    """
    from models.gpt import base
    from models.parts import Parts

    parts, traces, setters = base(model, optim, separator), list[Traced](), dict[str, str]()
    overrides = dict[str, str]()
    latest = {"optimizer": Traced(parts.optimizer, "", "optimizer")}
    for source in sources.values():
        given = replace(parts, optimizer=latest["optimizer"])
        changed = _apply(source, given)
        if changed.model.vocab_size != model.vocab_size:
            raise LlmbenchError(f"variant '{source.name}' changes vocab_size, which the track sets; remove that change")
        if changed.separator != separator or changed.context is not parts.context:
            raise LlmbenchError(
                f"variant '{source.name}' changes separator or context, which it may only read; remove that change"
            )
        if changed.muon is not given.muon:
            check_muon(source.name, given.muon, changed.muon, overrides)
            traces.append(Traced(changed.muon, source.name, "muon"))
        check_configs(source.name, given, changed, setters, partial(_on_base, source, model, optim))
        for field in fields(Parts):
            factory = getattr(changed, field.name)
            if field.name != "muon" and callable(factory) and factory is not getattr(given, field.name):
                trace = Traced(factory, source.name, field.name)
                trace.earlier = latest.get(field.name)
                latest[field.name] = trace
                traces.append(trace)
                changed = replace(changed, **{field.name: trace})  # type: ignore[arg-type]
        parts = changed
    last = latest["optimizer"]
    parts = replace(parts, optimizer=checked_optimizer(last) if last.variant else last.factory)
    return Recipe(parts, tuple(traces), lambda: apply_recipe(sources, model, optim, separator))


def _on_base(source: VariantSource, model: ModelConfig, optim: OptimConfig) -> tuple[Parts, Parts]:
    """The base, and the base with this variant alone. If the variant alone fails, returns the base twice."""
    from models.gpt import base

    plain = base(model, optim)
    try:
        return plain, _apply(source, plain)
    except LlmbenchError:
        return plain, plain


def _apply(source: VariantSource, parts: Parts) -> Parts:
    """`parts` after one variant was applied. Raises LlmbenchError if the variant's code raises anything."""
    from models.parts import ModelConfig, OptimConfig, Parts

    try:
        changed = _import_apply(source)(parts)
    except BaseException as error:  # also SystemExit and KeyboardInterrupt, which its code may raise
        raise LlmbenchError(f"variant '{source.name}' failed: {_failure(error, source)}") from error
    for value, name, kind in (
        (changed, "apply returned", Parts),
        (getattr(changed, "model", None), "apply set model to", ModelConfig),
        (getattr(changed, "optim", None), "apply set optim to", OptimConfig),
    ):
        if not isinstance(value, kind):
            raise LlmbenchError(
                f"variant '{source.name}': {name} an object of type {type(value).__name__} instead of "
                f"{kind.__name__}; end apply with `return replace(parts, ...)`"
            )
    return changed


def _failure(error: BaseException, source: VariantSource) -> str:
    """A variant's exception as a short text: its message, the line of code, and a hint if a name is wrong."""
    from models.parts import ModelConfig, OptimConfig, Parts

    kinds = {kind.__name__: [field.name for field in fields(kind)] for kind in (Parts, ModelConfig, OptimConfig)}
    shown = traceback.format_exception_only(error)[-1].strip()  # works even if the exception's str() fails
    message = shown[:LONGEST_MESSAGE]
    owner, name = "", ""
    if isinstance(error, AttributeError):
        owner, name = type(error.obj).__name__, str(error.name)
    elif unknown := UNKNOWN_ARGUMENT.match(message):
        owner, name = unknown.groups()
    if owner in kinds:
        message = f"{owner} has no '{name[:40]}'{did_you_mean(name, kinds[owner])}; it has {', '.join(kinds[owner])}"
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(source.path)]
    if not lines:
        return message
    # The code that runs is written out from the syntax tree, so its line numbers are not those of the file.
    return f"{message} (in `{source.text.splitlines()[lines[-1] - 1].strip()[:LONGEST_LINE]}`)"


def canonical_name(name: str) -> str:
    """A parameter's name without the wrappers around it: `embedding.inner.weight` -> `embedding.weight`."""
    return ".".join(part for part in name.split(".") if part != "inner")


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw the initial values of each parameter from a separate random stream, made from seed and parameter name.

    Therefore a new parameter does not change the values of the others. As is usual in PyTorch, the method
    `reset_parameters` of a module draws its parameters. Raises LlmbenchError if a module with parameters lacks this
    method, or if two parameters would have the same stream, and so the same values.
    """
    import torch

    owners: dict[str, str] = {}
    done: set[nn.Parameter] = set()  # a tied parameter is drawn by its first owner
    for prefix, module in model.named_modules():
        own = {n: p for n, p in module.named_parameters(prefix=prefix, recurse=False) if p not in done}
        done |= set(own.values())
        if own and not callable(getattr(module, "reset_parameters", None)):
            raise LlmbenchError(
                f"{type(module).__name__} contains the parameters {', '.join(own)} but has no reset_parameters(); "
                f"define it, because llmbench calls it to draw their initial values"
            )
        drawn = {}
        for name, parameter in own.items():
            key = canonical_name(name)
            if key in owners:
                raise LlmbenchError(
                    f"the parameters {owners[key]} and {name} would get the same initial values, because both would "
                    f"be drawn with the key {key}; rename one of them"
                )
            owners[key] = name
            torch.manual_seed(derive_seed("weights", seed, key))
            module.reset_parameters()
            drawn[name] = parameter.detach().clone()
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(drawn[name])
