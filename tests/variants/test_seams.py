"""Seams: a small idea is a small file. Two ideas on different seams stack; two that replace the same thing conflict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import Training
from harness.core.track import Track, load_track
from harness.player.train import batches_of, build_optimizers
from harness.variants.recipe import Recipe, apply_recipe
from harness.variants.source import VariantSource
from models.optim import Muon
from tests.sandbox import Sandbox

HEAD = '"""An idea (somebody, 2026)."""\nfrom models.seams import F, Muon, Vector, Wrapper, nn, replace, torch\n'


def apply_texts(track: Track, *texts: str) -> Recipe:
    sources = [VariantSource(f"v{place}", Path(f"v{place}.py"), HEAD + text) for place, text in enumerate(texts)]
    return apply_recipe({one.name: one for one in sources}, track.model, track.optim, separator=7)


def build(track: Track, *texts: str) -> nn.Module:
    recipe = apply_texts(track, *texts)
    model = recipe.build()
    build_optimizers(recipe, model)
    return model


def wrapping(seam: str, body: str, *, inputs: str = "x") -> str:
    return f"""
class Idea(Wrapper):
    def forward(self, {inputs}):
        {body}
def apply(parts):
    return parts.wrap({seam}=Idea)
"""


ATTENTION = {
    "projection": wrapping("projection", "q, k, v = self.inner(x)\n        return q, k, 2 * v"),
    "mixing": wrapping("mixing", "return self.inner(q, k, v) - v", inputs="q, k, v"),
    "output": wrapping("output", "return self.inner(0.5 * y, x)", inputs="y, x"),
}
REPLACED = {
    "projection": "lambda final, layer, attention: nn.Identity()",
    "mixing": "lambda final, layer, attention: nn.Identity()",
    "output": "lambda final, layer, attention: nn.Identity()",
}


@pytest.mark.parametrize("first", ATTENTION)
@pytest.mark.parametrize("second", ATTENTION)
def test_ideas_on_attention_stack_on_the_same_seam_and_on_others(tiny: Track, first: str, second: str) -> None:
    names = dict(build(tiny, ATTENTION[first], ATTENTION[second]).named_parameters())
    assert names.keys() == dict(build(tiny).named_parameters()).keys()  # no seam renames a matrix
    modules = dict(build(tiny, ATTENTION[first], ATTENTION[second]).named_modules())
    assert f"blocks.0.attention.{first}.inner" in modules
    assert f"blocks.0.attention.{second}.inner" in modules


@pytest.mark.parametrize("seam", REPLACED)
def test_two_replacements_of_one_seam_of_attention_conflict_by_name(tiny: Track, seam: str) -> None:
    replaced = f"def apply(parts):\n    return replace(parts, {seam}={REPLACED[seam]})\n"
    with pytest.raises(LlmbenchError, match=f"'v0' and 'v1' conflict: both replace {seam}"):
        build(tiny, ATTENTION[seam], replaced)


def test_the_parts_of_attention_do_what_they_say(tiny: Track) -> None:
    model = build(tiny, ATTENTION["mixing"]).eval()
    attention: Any = model.get_submodule("blocks.0.attention")
    x_BTD = torch.randn(2, 5, tiny.model.dim)
    with torch.no_grad():
        q, k, v = attention.projection(x_BTD)
        y = attention.mixing(*attention.query_key(q, k), v)
        nn.init.normal_(attention.out.weight)
        assert torch.equal(attention(x_BTD), attention.output(y, x_BTD))
        assert torch.allclose(y[:, 0], torch.zeros(()), atol=1e-6)  # the first position sees itself alone


MUON = {
    "orthogonalize": "def orthogonalize(self, one, state):\n        return super().orthogonalize(2 * one, state)",
    "momentum": "def momentum(self, group):\n        return 0.5 * super().momentum(group)",
    "scale": "def scale(self, shape):\n        return 0.5 * super().scale(shape)",
    "decay": "def decay(self, parameter, update, rate):\n        super().decay(parameter, update, 2 * rate)",
    "step": "def step(self, closure=None):\n        self.last = self.context.progress\n        super().step()",
    "quintics": "quintics = ((1.5, -0.5, 0.0),) * 8",
}


def muon(body: str) -> str:
    return f"class Idea(Muon):\n    {body}\ndef apply(parts):\n    return parts.wrap(muon=Idea)\n"


@pytest.mark.parametrize("first", MUON)
@pytest.mark.parametrize("second", sorted({*MUON} - {"quintics"}))
def test_ideas_on_muon_stack_where_they_call_what_was_there(tiny: Track, first: str, second: str) -> None:
    recipe = apply_texts(tiny, muon(MUON[first]), muon(MUON[second]))
    own = next(one for one in build_optimizers(recipe, recipe.build()) if isinstance(one, Muon))
    assert [cls.__name__ for cls in type(own).__mro__[:4]] == ["Idea", "Idea", "Idea", "Muon"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("orthogonalize", "def orthogonalize(self, updates, state):\n        return updates"),
        ("scale", "def scale(self, shape):\n        return 1.0"),
        ("momentum", "def momentum(self, group):\n        return 0.5"),
        ("decay", "def decay(self, parameter, update, rate):\n        pass"),
        ("decay", "@torch.no_grad()\n    def decay(self, parameter, update, rate):\n        pass"),
        ("quintics", "quintics = ((2.0, -1.5, 0.5),) * 5"),
    ],
)
def test_two_replacements_of_one_method_of_muon_conflict_by_name(tiny: Track, name: str, body: str) -> None:
    with pytest.raises(LlmbenchError, match=f"'v0' and 'v1' conflict: both replace Muon's {name}"):
        build(tiny, muon(MUON[name]), muon(body))


def test_another_muon_that_ignores_the_one_before_is_a_conflict(tiny: Track) -> None:
    own = "class Own(Muon):\n    pass\ndef apply(parts):\n    return replace(parts, muon=Own)\n"
    with pytest.raises(LlmbenchError, match="'v0' and 'v1' conflict: both replace muon"):
        build(tiny, muon(MUON["scale"]), own)
    build(tiny, own, muon(MUON["scale"]))


SGD = """
def apply(parts):
    return replace(parts, optimizer=lambda model, config: [torch.optim.SGD(model.parameters())])
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (muon(MUON["scale"]), "muon"),
        ("def apply(parts):\n    return replace(parts, lr_scale=lambda name, parameter: 2.0)\n", "lr_scale"),
    ],
)
def test_what_no_optimizer_uses_is_an_error(tiny: Track, text: str, what: str) -> None:
    with pytest.raises(LlmbenchError, match=f"'v0' changes {what}, which no optimizer of this recipe uses"):
        build(tiny, text, SGD)


def rates(body: str) -> str:
    return f"def apply(parts):\n    return replace(parts, lr_scale=lambda name, parameter: {body})\n"


def test_a_variant_changes_the_rate_of_some_parameters_by_their_name(tiny: Track) -> None:
    recipe = apply_texts(
        tiny,
        rates('parts.lr_scale(name, parameter) * (0.5 if ".up." in name else 1)'),
        rates('parts.lr_scale(name, parameter) * (3.0 if "head" in name else 1)'),
    )
    model = recipe.build()
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: group["lr"]
        for optimizer in build_optimizers(recipe, model)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    optim = tiny.optim
    assert found["blocks.1.feed_forward.up.weight"] == 0.5 * optim.muon_lr
    assert found["blocks.1.feed_forward.down.weight"] == optim.muon_lr
    assert found["head.out.weight"] == 3 * optim.head_lr
    assert found["head.norm.weight"] == 3 * optim.scalar_lr
    assert found["embedding.weight"] == optim.embed_lr


def test_two_rates_of_which_one_ignores_the_other_conflict(tiny: Track) -> None:
    with pytest.raises(LlmbenchError, match="'v0' and 'v1' conflict: both replace lr_scale"):
        build(tiny, rates("2.0"), rates("3.0"))


LOSS = """
class Idea(Wrapper):
    def forward(self, x):
        y = self.inner(x)
        self.aux_loss = {} * y.square().mean()
        return y
def apply(parts):
    return parts.wrap({}=Idea)
"""


def test_a_loss_of_any_module_is_added_and_those_of_two_ideas_add_up(tiny: Track) -> None:
    def aux_loss(*factors: tuple[str, float]) -> float:
        torch.manual_seed(0)
        model = build(tiny, *(LOSS.format(factor, seam) for seam, factor in factors))
        return model(torch.arange(12).view(2, 6))[1].item()

    one, other = aux_loss(("embedding", 0.5)), aux_loss(("block", 2.0))
    assert aux_loss(("embedding", 0.5), ("block", 2.0)) == pytest.approx(one + other)
    assert one > 0
    assert build(tiny)(torch.zeros(1, 4, dtype=torch.int64))[1] is None


CONTEXT = wrapping(
    "block",
    """assert self.context.tokens_BT.shape == x.shape[:2]
        self.context.seen["depth"] = self.context.seen.get("depth", 0) + 1
        assert self.context.seen["depth"] == self.layer + 1
        return self.inner(x)""",
)


def test_components_share_what_belongs_to_one_forward_pass_and_nothing_outlives_it(tiny: Track) -> None:
    recipe = apply_texts(tiny, CONTEXT)
    model, context = recipe.build(), recipe.parts.context
    for _ in range(2):
        model(torch.zeros(1, 4, dtype=torch.int64))
        assert (context.tokens_BT, context.seen) == (None, {})
    assert recipe.parts.separator == 7


@pytest.mark.parametrize("field", ["separator=3", "context=type(parts.context)()"])
def test_what_belongs_to_the_track_cannot_be_changed(tiny: Track, field: str) -> None:
    with pytest.raises(LlmbenchError, match="which it may only read"):
        apply_texts(tiny, f"def apply(parts):\n    return replace(parts, {field})\n")


PROGRESS = wrapping(
    "head",
    """if self.training:
            self.context.seen["progress"] = self.context.progress
        return self.inner(x) * (1 + self.context.progress)""",
)
SHORT_FIRST = """
def apply(parts):
    def batch_shape(progress, sequences, length):
        sequences, length = parts.batch_shape(progress, sequences, length)
        return (2 * sequences, length // 2) if progress < 0.5 else (sequences, length)
    return replace(parts, batch_shape=batch_shape)
"""
SMALL_LAST = """
def apply(parts):
    def batch_shape(progress, sequences, length):
        sequences, length = parts.batch_shape(progress, sequences, length)
        return (sequences // 2 if progress >= 0.5 else sequences, length)
    return replace(parts, batch_shape=batch_shape)
"""


def test_schedules_of_length_and_batch_stack_within_the_budget_and_resume(sandbox: Sandbox, tmp_path: Path) -> None:
    own = sandbox.copy(tmp_path / "llmbench")
    for name, text in (("short_first", SHORT_FIRST), ("small_last", SMALL_LAST), ("late_head", PROGRESS)):
        (own.root / "models" / "variants" / f"{name}.py").write_text(HEAD + text)
    names = ("short_first", "small_last", "late_head")
    done = own(
        "run", "candidate", "--track", "smoke", "--screen", *(word for name in names for word in ("--variant", name))
    )
    assert done.returncode in (0, 3, 4), done.stderr
    (path,) = own.root.glob("runs/smoke/base+short_first+small_last+late_head/*/seed-0/run.json")
    training = Training.model_validate_json(json.dumps(json.loads(path.read_text())["training"]))
    budget = load_track(Project(own.root), "smoke").budget
    assert training.tokens == budget.tokens
    assert training.batches is not None
    sequences, length = budget.batch_sequences, budget.seq_len
    shapes = [(shape.sequences, shape.length) for shape in training.batches]
    assert shapes == [(2 * sequences, length // 2), (sequences // 2, length)]
    assert training.steps == sum(shape.steps for shape in training.batches) == budget.num_steps * 3 // 2
    assert [training.tokens_at(point.step) for point in training.curve][-1] == budget.tokens


def test_a_schedule_of_batches_that_ignores_anothers_is_a_conflict(tiny: Track) -> None:
    ignoring = (
        "def apply(parts):\n    return replace(parts, batch_shape=lambda progress, rows, length: (rows, length))\n"
    )
    with pytest.raises(LlmbenchError, match="'v0' and 'v1' conflict: both replace batch_shape"):
        batches_of(apply_texts(tiny, SHORT_FIRST, ignoring), tiny)
    assert batches_of(apply_texts(tiny, ignoring, SHORT_FIRST), tiny) is not None


def test_a_track_that_compiles_has_batches_of_one_shape(tiny: Track) -> None:
    with pytest.raises(LlmbenchError, match="a track with compile = true needs batches of one shape"):
        batches_of(apply_texts(tiny, SHORT_FIRST), tiny.model_copy(update={"compile": True}))
