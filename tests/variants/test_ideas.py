"""The committed variants as a collection: none hides what it stands around, and no two want the same parameter."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import nn

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import Track
from harness.variants.recipe import MODEL_COMPONENTS, Recipe, apply_recipe, canonical_name
from harness.variants.source import VariantSource
from tests.make import ROOT

FOLDER = Project(ROOT).root / "models" / "variants"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
# Forms of one idea: nobody stacks them.
ONE_IDEA = [{"qk_norm", "qk_norm_fast"}]

MARK = '''"""Marks a component (a test)."""
from models.seams import Wrapper
class Mark(Wrapper):
    def forward(self, *inputs):
        return self.inner(*inputs)
def apply(parts):
    return parts.wrap({component}=Mark)
'''


def source(name: str, text: str | None = None) -> VariantSource:
    path = FOLDER / f"{name}.py"
    return VariantSource(name, path, path.read_text() if text is None else text)


def recipe_of(track: Track, *sources: VariantSource) -> Recipe:
    return apply_recipe({one.name: one for one in sources}, track.model, track.optim, separator=0)


def track_for(name: str, dense: Track, mixture: Track) -> Track:
    """The dense track, but for variants of experts, which it refuses."""
    try:
        recipe_of(dense, source(name)).build()
    except LlmbenchError as error:
        assert "experts" in str(error)  # noqa: PT017
        return mixture
    return dense


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_calls_what_it_is_around_or_conflicts_by_name(tiny: Track, tiny_mixture: Track, name: str) -> None:
    track = track_for(name, tiny, tiny_mixture)
    changed = {trace.component for trace in recipe_of(track, source(name)).traces} & {*MODEL_COMPONENTS}
    for component in sorted(changed):
        try:
            recipe = recipe_of(track, source("mark", MARK.format(component=component)), source(name))
            model = recipe.build()
        except LlmbenchError as error:
            assert f"both replace {component}" in str(error)  # noqa: PT017
            continue
        marks = [module for module in model.modules() if type(module).__name__ == "Mark"]
        called: set[nn.Module] = set()
        for mark in marks:
            mark.register_forward_hook(lambda module, inputs, output, called=called: called.add(module))
        recipe.parts.context.step, recipe.parts.context.num_steps = 0, 10
        model(torch.zeros(1, 8, dtype=torch.int64))
        assert called == set(marks), component


def test_no_two_variants_name_a_parameter_alike(tiny: Track, tiny_mixture: Track) -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for name in NAMES:
        track = track_for(name, tiny, tiny_mixture)
        own = {canonical_name(one) for one, _ in recipe_of(track, source(name)).build().named_parameters()}
        base = {canonical_name(one) for one, _ in recipe_of(track).build().named_parameters()}
        for parameter in own - base:
            owners[parameter].add(name)
    shared = {parameter: names for parameter, names in owners.items() if len(names) > 1 and names not in ONE_IDEA}
    assert not shared
