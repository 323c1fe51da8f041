"""Variants and recipes: what is refused before it runs, how recipes compose, what they cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import Track
from harness.variants.recipe import Recipe, apply_recipe, parse_recipe
from harness.variants.source import Notes, VariantSource, read_variant
from tests.sandbox import Sandbox

HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nfrom torch import nn\n'


def source(name: str, text: str) -> VariantSource:
    return VariantSource(name, Path(f"models/variants/{name}.py"), text)


def apply_texts(track: Track, **texts: str) -> Recipe:
    return apply_recipe({name: source(name, text) for name, text in texts.items()}, track.model, track.optim)


NOTED = """A gate on each head (somebody, 2026).

It starts at one half. Source: a line within a paragraph is no note.

Topic: attention
Source: https://example.org/gate
Claimed: 0.02 bits per byte at 1B parameters,
    one seed
Constants: of the source
"""


def test_the_notes_are_the_docstrings_last_paragraph() -> None:
    notes = source("idea", f'"""{NOTED}"""').notes
    claimed = "0.02 bits per byte at 1B parameters, one seed"
    assert notes == Notes("attention", "https://example.org/gate", claimed, "of the source")
    assert source("idea", '"""An idea.\n\nTopic: loss\n"""').notes == Notes(topic="loss")
    for without in (
        '"""An idea."""',
        '"""An idea.\n\nTopic: loss\n\nMore of it."""',
        '"""An idea.\n\nOur\nTopic: loss"""',
    ):
        assert source("idea", without).notes == Notes()


def test_an_unknown_variant_suggests_the_nearest(project: Project) -> None:
    with pytest.raises(LlmbenchError, match="did you mean 'token_smear'"):
        read_variant(project, "token_smeer")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "apply returned an object of type NoneType instead of Parts; end apply with"),
        ("return replace(parts, model=3)", "apply set model to an object of type int instead of ModelConfig"),
        (
            "return replace(parts, optim=parts.model)",
            "apply set optim to an object of type ModelConfig instead of OptimConfig",
        ),
        ("return replace(parts, model=replace(parts.model, vocab_size=7))", "vocab_size, which the track sets"),
        ("return replace(parts, budget=1)", "failed: Parts has no 'budget'; it has model, optim, embedding, query_key"),
        ("return parts.budget", "failed: Parts has no 'budget'; it has model, optim, embedding, query_key"),
        ("return parts.optimiser", "no 'optimiser' (did you mean 'optimizer'?); it has"),
        ("return replace(parts, model=replace(parts.model, width=3))", "ModelConfig has no 'width'; it has vocab_size"),
        ("return parts.optim.muon", "OptimConfig has no 'muon'"),
        ("return [].nothing", "failed: AttributeError: 'list' object has no attribute 'nothing'"),
        ("return replace(parts, model=replace(parts.model, dim=0))", "failed: ValueError: dim must be 1 or more"),
        ("raise RuntimeError('boom')", "failed: RuntimeError: boom (in `raise RuntimeError('boom')`)"),
        ("raise SystemExit(0)", "failed: SystemExit: 0"),
        ("raise KeyboardInterrupt", "failed: KeyboardInterrupt"),
        ("raise GeneratorExit", "failed: GeneratorExit"),
        ("raise type('Mute', (BaseException,), {'__str__': lambda self: 1 / 0})", "Mute: <exception str() failed>"),
    ],
)
def test_an_apply_that_fails_is_the_variants_error(smoke: Track, body: str, words: str) -> None:
    with pytest.raises(LlmbenchError, match=rf"^variant 'idea'.*{re.escape(words)}"):
        apply_texts(smoke, idea=f"{HEAD}def apply(parts):\n    {body}\n")


@pytest.mark.parametrize("raised", ["ValueError('x' * 30_000_000)", "type('x' * 30_000_000, (Exception,), {})()"])
def test_a_failure_is_short_whatever_was_raised(smoke: Track, raised: str) -> None:
    with pytest.raises(LlmbenchError, match="variant 'idea' failed: ") as caught:
        apply_texts(smoke, idea=f"{HEAD}def apply(parts):\n    raise {raised}\n")
    assert len(str(caught.value)) < 400


def test_a_failure_of_the_file_itself_is_the_variants_error(smoke: Track) -> None:
    with pytest.raises(LlmbenchError, match=r"variant 'idea' failed: ZeroDivisionError: .* \(in `.*`\)"):
        apply_texts(smoke, idea=f"{HEAD}x = 1 / 0\ndef apply(parts):\n    return parts\n")


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


# --- conflicts beyond the model's components ------------------------------------------------------------------------

OPTIMIZERS = {
    # keep what they are given
    "untouched": "return parts.optimizer(model, config)",
    "tuned": """for one in (made := parts.optimizer(model, config)):
            one.param_groups[0]["weight_decay"] = 0.5
        return made""",
    "held": "return [Around(one) for one in parts.optimizer(model, config)]",
    "closed_over": """made = parts.optimizer(model, config)
        return [Around(torch.optim.SGD(made[0].param_groups), lambda: made), *made[1:]]""",
    "fails": "one, two = [0]",
    # build others
    "own": "return [torch.optim.SGD(model.parameters(), lr=0.1)]",
    "from_the_groups": """muon, adamw = parts.optimizer(model, config)
        return [torch.optim.SGD(muon.param_groups), adamw]""",
    "from_the_groups_and_parts": """muon, adamw = parts.optimizer(model, config)
        return [Around(torch.optim.SGD(muon.param_groups), parts), adamw]""",
}
AROUND = """import torch
class Around(torch.optim.Optimizer):
    def __init__(self, inner, more=None):
        super().__init__(inner.param_groups, {})
        self.inner, self.more = inner, more
    def step(self, closure=None):
        self.inner.step()
"""


def optimizing(name: str) -> str:
    body = f"def optimizer(model, config):\n        {OPTIMIZERS[name]}\n    return replace(parts, optimizer=optimizer)"
    return f"{HEAD}{AROUND}def apply(parts):\n    {body}\n"


def make_optimizers(track: Track, *names: str) -> list[object]:
    recipe = apply_texts(track, **{f"v{place}": optimizing(name) for place, name in enumerate(names)})
    return recipe.parts.optimizer(recipe.build(), recipe.parts.optim)


@pytest.mark.parametrize("second", ["untouched", "tuned", "held", "closed_over"])
@pytest.mark.parametrize("first", sorted({*OPTIMIZERS} - {"fails"}))
def test_an_optimizer_that_keeps_what_it_is_given_stacks_on_any_other(smoke: Track, first: str, second: str) -> None:
    assert len(make_optimizers(smoke, first, second)) == len(make_optimizers(smoke, first))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("own", "own"),
        ("tuned", "own"),
        *((first, "from_the_groups") for first in ("held", "closed_over", "from_the_groups")),
        ("from_the_groups", "from_the_groups_and_parts"),
    ],
)
def test_an_optimizer_that_drops_anothers_is_a_conflict_that_names_both(smoke: Track, first: str, second: str) -> None:
    with pytest.raises(LlmbenchError, match="'v0' and 'v1' conflict: both replace optimizer; leave one out, or let"):
        make_optimizers(smoke, first, second)
    with pytest.raises(LlmbenchError, match=r"'v[01]' and 'v2' conflict: both replace optimizer"):
        make_optimizers(smoke, first, "untouched", second)


def test_an_optimizer_that_fails_on_anothers_is_a_conflict_that_names_both(smoke: Track) -> None:
    with pytest.raises(LlmbenchError, match=r"conflict: 'v1' fails on the optimizers of 'v0' \(ValueError: "):
        make_optimizers(smoke, "own", "from_the_groups")
    with pytest.raises(ValueError, match="not enough values"):  # not because of another variant
        make_optimizers(smoke, "fails")


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"fails"}))
def test_one_optimizer_conflicts_with_nothing_even_when_it_is_made_twice(smoke: Track, name: str) -> None:
    recipe = apply_texts(smoke, one=optimizing(name), two=WRAP)
    model = recipe.build()
    first, second = (recipe.parts.optimizer(model, recipe.parts.optim) for _ in range(2))
    assert len(first) == len(second)


def scheduling(body: str) -> str:
    schedule = f"def schedule(step, steps, config):\n        {body}\n    return replace(parts, schedule=schedule)"
    return f"{HEAD}def apply(parts):\n    {schedule}\n"


CALLS = scheduling("return 0.5 * parts.schedule(step, steps, config)")
CALLS_LATE = scheduling("return parts.schedule(step, steps, config) if step > 0.8 * steps else 1.0")
COUNTS = (
    HEAD
    + """def apply(parts):
    seen = []
    def schedule(step, steps, config):
        seen.append(step)
        return len(seen) * parts.schedule(step, steps, config)
    return replace(parts, schedule=schedule)
"""
)


def test_schedules_that_call_what_they_were_given_stack_and_are_asked_nothing_before(smoke: Track) -> None:
    recipe = apply_texts(smoke, one=scheduling("return 4.0"), two=CALLS, three=CALLS_LATE, four=COUNTS)
    recipe.build()
    assert [recipe.parts.schedule(step, 10, recipe.parts.optim) for step in (0, 9)] == [1.0, 4.0]


@pytest.mark.parametrize("first", [CALLS, scheduling("return 1.0")])
def test_a_schedule_that_ignores_anothers_is_a_conflict_that_names_both(smoke: Track, first: str) -> None:
    with pytest.raises(
        LlmbenchError, match=r"'one' and 'two' conflict: both replace schedule; .* call `parts.schedule`"
    ):
        apply_texts(smoke, one=first, two=scheduling("return 2.0"), three=CALLS).build()


def setting(field: str, value: str) -> str:
    config, name = field.split(".")
    return f"{HEAD}def apply(parts):\n    return replace(parts, {config}=replace(parts.{config}, {name}={value}))\n"


@pytest.mark.parametrize(("field", "one", "two"), [("optim.muon_lr", "0.5", "0.25"), ("model.rope_base", "5.0", "7.0")])
def test_two_values_for_a_field_are_a_conflict_that_names_both_and_the_field(
    smoke: Track, field: str, one: str, two: str
) -> None:
    words = rf"'one' and 'three' conflict: both replace {field}; .* compute it from `parts.{field}`"
    with pytest.raises(LlmbenchError, match=words):
        apply_texts(smoke, one=setting(field, one), two=WRAP, three=setting(field, two))


def test_a_field_that_is_computed_from_what_was_given_stacks(smoke: Track) -> None:
    double = setting("optim.muon_lr", "2 * parts.optim.muon_lr")
    assert apply_texts(smoke, one=double, two=double).parts.optim.muon_lr == 4 * smoke.optim.muon_lr
    assert apply_texts(smoke, one=setting("optim.muon_lr", "0.5"), two=double).parts.optim.muon_lr == 1.0
    apply_texts(smoke, one=setting("optim.muon_lr", "0.5"), two=setting("optim.embed_lr", "0.5"))  # another field
    apply_texts(smoke, one=setting("optim.muon_lr", "0.5"), two=setting("optim.muon_lr", "0.5"))  # agree


def test_a_variant_that_needs_another_is_not_judged_by_the_base(smoke: Track) -> None:
    needs = setting("model.num_experts", "{2: 4}[parts.model.num_experts]")
    assert apply_texts(smoke, one=setting("model.num_experts", "2"), two=needs).parts.model.num_experts == 4


@pytest.mark.parametrize("recipe", ["", "token_smear", "base+", "base++a", "base+a+a"])
def test_a_malformed_recipe_is_refused(recipe: str) -> None:
    with pytest.raises(LlmbenchError, match="recipe"):
        parse_recipe(recipe)


def test_a_variant_that_is_looked_at_is_built_in_a_player_and_what_fails_is_said(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    own = sandbox.copy(tmp_path / "llmbench")
    for name, body in {"asks": "return parts.budgets", "crashes": "import ctypes; ctypes.string_at(0)"}.items():
        text = f'"""A variant that fails (nobody, 2026)."""\n\n\ndef apply(parts):\n    {body}\n'
        (own.root / "models" / "variants" / f"{name}.py").write_text(text)
    assert "on pocket, 1,312,000 parameters" in own("variants", "token_smear").stdout
    assert "Parts has no 'budgets'; it has model, optim" in own.refuses("variants", "asks")
    assert "imports 'ctypes'" in own.refuses("variants", "crashes")
