"""Variants and recipes: what is refused before it runs, how recipes compose, what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import Track
from harness.variants.recipe import Recipe, apply_recipe, parse_recipe
from harness.variants.source import VariantSource, read_variant

HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nfrom torch import nn\n'


def source(name: str, text: str) -> VariantSource:
    return VariantSource(name, Path(f"models/variants/{name}.py"), text)


def apply_texts(track: Track, **texts: str) -> Recipe:
    return apply_recipe({name: source(name, text) for name, text in texts.items()}, track.model, track.optim)


def test_an_unknown_variant_suggests_the_nearest(project: Project) -> None:
    with pytest.raises(LlmbenchError, match="did you mean 'token_smear'"):
        read_variant(project, "token_smeer")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "returned NoneType, not Parts"),
        ("return replace(parts, nonsense=1)", "failed: TypeError"),
        ("raise RuntimeError('boom')", "failed: RuntimeError: boom"),
        ("return replace(parts, model=replace(parts.model, vocab_size=7))", "vocab_size, which belongs to the track"),
    ],
)
def test_an_apply_that_fails_is_the_variants_error(smoke: Track, body: str, words: str) -> None:
    with pytest.raises(LlmbenchError, match=words):
        apply_texts(smoke, idea=f"{HEAD}def apply(parts):\n    {body}\n")


WRAP = (
    HEAD
    + """
class Scale(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return self.inner(x)
def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: Scale(parts.feed_forward(final, layer)))
"""
)
REPLACE = HEAD + "def apply(parts):\n    return replace(parts, feed_forward=lambda final, layer: nn.Identity())\n"


def test_variants_that_wrap_one_component_stack(smoke: Track) -> None:
    model = apply_texts(smoke, one=WRAP, two=WRAP).build()
    assert "blocks.0.feed_forward.inner.inner.up.weight" in dict(model.named_parameters())
    apply_texts(smoke, one=REPLACE, two=WRAP).build()  # a wrapper may follow a replacement


@pytest.mark.parametrize("first", [REPLACE, WRAP])
def test_a_replacement_of_what_another_changed_is_a_conflict_that_names_both(smoke: Track, first: str) -> None:
    with pytest.raises(LlmbenchError, match="'one' and 'two' conflict: both replace feed_forward"):
        apply_texts(smoke, one=first, two=REPLACE).build()


def test_a_change_that_nothing_uses_is_an_error(smoke: Track) -> None:
    attention = HEAD + "def apply(parts):\n    return replace(parts, attention=lambda final, layer: nn.Identity())\n"
    mixing = HEAD + "def apply(parts):\n    return replace(parts, query_key=lambda final, layer: nn.Identity())\n"
    with pytest.raises(LlmbenchError, match="'one' changes query_key, which nothing"):
        apply_texts(smoke, one=mixing, two=attention).build()


@pytest.mark.parametrize("recipe", ["", "token_smear", "base+", "base++a", "base+a+a"])
def test_a_malformed_recipe_is_refused(recipe: str) -> None:
    with pytest.raises(LlmbenchError, match="recipe"):
        parse_recipe(recipe)
