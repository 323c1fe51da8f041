"""The player's side: every shape comes from config, and each component is what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.core.project import Project
from harness.variants.recipe import apply_recipe, draw_parameters, recipe_sources
from models import muon
from models.gpt import GPT, Attention, Rotary, base
from models.moe import Experts, MixtureOfExperts
from models.muon import orthogonalize
from models.optim import linear_schedule
from models.parts import ModelConfig, OptimConfig

SMALL = ModelConfig(vocab_size=64, num_layers=2, dim=32, num_heads=4, num_kv_heads=2, ffn_dim=48)
OPTIM = OptimConfig(muon_lr=0.02, embed_lr=0.1, head_lr=0.01, scalar_lr=0.01)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random: what starts at zero would hide an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def test_a_tied_head_shares_the_embeddings_matrix_and_start() -> None:
    model = GPT(base(replace(SMALL, tie_embeddings=True, dim=64), OPTIM))
    draw_parameters(model, seed=0)
    assert model.head.out.weight is model.embedding.weight
    assert model.embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert model.embedding(torch.arange(64)).std().item() == pytest.approx(1, rel=0.05)


@settings(max_examples=20)
@given(
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4), (6, 3)]),
    head_dim=st.sampled_from([2, 8]),
    num_layers=st.integers(1, 3),
    num_experts=st.sampled_from([0, 2, 3]),
)
def test_any_config_builds_a_causal_model_of_its_shape(
    heads: tuple[int, int], head_dim: int, num_layers: int, num_experts: int
) -> None:
    config = ModelConfig(
        vocab_size=17,
        num_layers=num_layers,
        dim=heads[0] * head_dim,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        ffn_dim=12,
        num_experts=num_experts,
    )
    model = randomize(GPT(base(config, OPTIM)))
    tokens_BT = torch.arange(14).view(2, 7) % 17
    logits_BTV, aux_loss = model(tokens_BT)
    assert logits_BTV.shape == (2, 7, 17)
    assert (aux_loss is None) == (num_experts == 0)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 4:] += 1
    torch.testing.assert_close(model(changed_BT).logits_BTV[:, :4], logits_BTV[:, :4])


def test_grouped_keys_equal_repeated_keys() -> None:
    grouped = randomize(Attention(base(SMALL, OPTIM), 0))
    full = Attention(base(replace(SMALL, num_kv_heads=4), OPTIM), 0).eval()
    state = grouped.state_dict()
    for name in ("key.weight", "value.weight"):
        state[name] = state[name].unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x_BTD = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grouped(x_BTD), full(x_BTD))


def test_rotary_keeps_norms_and_depends_on_distance_alone() -> None:
    q_K, k_K = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    q_BTHK, k_BTGK = Rotary(8, 10_000.0)(q_K.expand(1, 12, 1, 8), k_K.expand(1, 12, 1, 8))
    torch.testing.assert_close(q_BTHK.norm(dim=-1), q_K.norm().expand(1, 12, 1))
    products_TT = q_BTHK[0, :, 0] @ k_BTGK[0, :, 0].T
    for distance in range(-5, 6):
        diagonal = products_TT.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def slow_mixture(moe: nn.Module, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, token by token and expert by expert; MoE++'s zero, copy and constant experts come last."""
    router_ED, real = moe.router.weight, moe.experts.up_EDF.size(0)
    if hasattr(moe, "free_router"):
        router_ED = torch.cat((router_ED, moe.free_router.weight))
    num_experts, outputs, probabilities = len(router_ED), [], []
    counts_E = torch.zeros(num_experts)
    for row_D in x_BTD.flatten(0, 1):
        probability_E = (router_ED @ row_D).softmax(0)
        weight_k, expert_k = probability_E.topk(moe.top_k)
        output_D = torch.zeros_like(row_D)
        total = weight_k.sum() if moe.top_k > 1 else 1.0
        for weight, expert in zip(weight_k / total, expert_k.tolist(), strict=True):
            counts_E[expert] += 1
            if expert < real:
                hidden_F = (row_D @ moe.experts.up_EDF[expert]).relu().square()
                output_D = output_D + weight * (hidden_F @ moe.experts.down_EFD[expert])
            elif expert == real + 1:
                output_D = output_D + weight * row_D
            elif expert > real + 1:
                kept = (moe.mix.weight @ row_D).sigmoid()[expert - real - 2]
                output_D = output_D + weight * (kept * row_D + (1 - kept) * moe.constant_CD[expert - real - 2])
        outputs.append(output_D)
        probabilities.append(probability_E)
    share_E = counts_E / counts_E.sum() * torch.tensor([1.0] * real + [0.75] * (num_experts - real))
    aux_loss = moe.balance_weight * num_experts * (share_E * torch.stack(probabilities).mean(0)).sum()
    return torch.stack(outputs).view_as(x_BTD), aux_loss


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_mixture_equals_its_slow_definition_gradients_included(top_k: int) -> None:
    assert_equal_with_gradients(randomize(MixtureOfExperts(replace(SMALL, num_experts=4, top_k=top_k))))


@pytest.mark.parametrize("top_k", [2, 3])
def test_zero_compute_experts_equal_their_slow_definition_gradients_included(project: Project, top_k: int) -> None:
    config = replace(SMALL, num_experts=3, top_k=top_k)
    recipe = apply_recipe(recipe_sources(project, "base+zero_compute_expert"), config, OPTIM)
    moe = randomize(recipe.parts.experts(recipe.parts, 0))
    assert_equal_with_gradients(moe)
    assert moe.count_E[moe.num_experts :].min() > 0, "this input reaches no expert of some kind"


def assert_equal_with_gradients(moe: nn.Module) -> None:
    """The module and its definition give the same output, balance loss and gradients on some tokens."""
    x_BTD = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))
    results = []
    for forward in (lambda x: (moe(x), moe.aux_loss), lambda x: slow_mixture(moe, x)):
        moe.zero_grad()
        inputs = x_BTD.clone().requires_grad_()
        output, aux_loss = forward(inputs)
        (output.square().mean() + aux_loss).backward()
        results.append([output, aux_loss, inputs.grad, *(parameter.grad for parameter in moe.parameters())])
    for fast, right in zip(*results, strict=True):
        torch.testing.assert_close(fast, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("load", [[5, 0, 11, 8], [0, 0, 0, 1], [4, 0, 3, 2, 6, 1]])
def test_grouped_products_equal_one_product_an_expert_gradients_included(load: list[int]) -> None:
    """On a CPU torch computes the grouped product by a loop: the call and its masks are tested here, no GPU kernel."""
    experts = randomize(Experts(4, 16, 24))
    x_AD = torch.randn(sum(load), 16, generator=torch.Generator().manual_seed(1))
    weight_AD = torch.randn(sum(load), 16, generator=torch.Generator().manual_seed(2))
    results = []
    for products in (experts.grouped, experts.one_by_one):
        experts.zero_grad()
        inputs = x_AD.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output_AD = products(inputs, torch.tensor(load))
        (output_AD.float() * weight_AD).sum().backward()
        results.append([output_AD.float(), inputs.grad, *(parameter.grad for parameter in experts.parameters())])
    for grouped, single in zip(*results, strict=True):
        torch.testing.assert_close(grouped, single, rtol=0.02, atol=0.02 * single.abs().max().item())
    assert not results[0][0][sum(load[:4]) :].any()


@pytest.mark.parametrize("load", [[5, 0, 11, 8], [0, 0, 0, 1], [4, 0, 3, 2, 6, 1]])
def test_all_experts_for_all_rows_give_each_row_its_own(load: list[int]) -> None:
    experts = randomize(Experts(4, 16, 24))
    x_AD = torch.randn(sum(load), 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        experts.all_by_all(x_AD, torch.tensor(load)), experts.one_by_one(x_AD, torch.tensor(load))
    )


def test_no_token_is_dropped_however_unbalanced_the_routing() -> None:
    moe = randomize(MixtureOfExperts(replace(SMALL, num_experts=4, top_k=2)))
    with torch.no_grad():
        moe.router.weight[2:] = 0
        moe.router.weight[:2] = 9 * torch.ones(32)
    output_BTD = moe(torch.ones(3, 7, 32))
    assert moe.count_E.tolist() == [21, 21, 0, 0]
    assert (output_BTD.abs().sum(-1) > 0).all()


def test_balanced_routing_has_a_balance_loss_of_its_weight() -> None:
    moe = MixtureOfExperts(replace(SMALL, num_experts=4, top_k=4, balance_weight=0.5)).train()
    with torch.no_grad():
        moe.router.weight.zero_()
    moe(torch.randn(2, 6, 32))
    torch.testing.assert_close(moe.aux_loss, torch.tensor(0.5))


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 64, 16), (2, 16, 64), (2, 3, 16, 20)])
def test_orthogonalize_moves_singular_values_near_one_and_keeps_directions(shape: tuple[int, ...]) -> None:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, vh = torch.linalg.svd(noise, full_matrices=False)
    matrices = u * (0.1 + values / values.amax(-1, keepdim=True)).unsqueeze(-2) @ vh
    updates = orthogonalize(matrices)
    assert updates.shape == matrices.shape
    values = torch.linalg.svdvals(updates)
    assert values.min() > 0.6
    assert values.max() < 1.3
    turned = u.mT @ updates @ vh.mT
    off_diagonal = turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(3, 24, 96), (2, 128, 24)])
def test_a_long_matrix_is_iterated_on_its_gram_matrix_with_the_same_result(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    by_gram = orthogonalize(matrices)
    monkeypatch.setattr(muon, "LONG", float("inf"))
    directly = orthogonalize(matrices)
    assert not torch.equal(by_gram, directly)  # two ways it is
    torch.testing.assert_close(by_gram, directly, rtol=0, atol=1e-5)


@settings(max_examples=100)
@given(num_steps=st.integers(1, 300), warmup=st.floats(0, 1), warmdown=st.floats(0, 1))
def test_the_schedule_wastes_no_step_and_never_exceeds_one(num_steps: int, warmup: float, warmdown: float) -> None:
    config = replace(OPTIM, warmup_fraction=warmup, warmdown_fraction=warmdown)
    rates = [linear_schedule(step, num_steps, config) for step in range(num_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    rise = rates[: int(warmup * num_steps)]
    if warmup + warmdown <= 1:
        assert rise == sorted(rise)
        assert max(rates) == pytest.approx(1, abs=1e-9) or num_steps * (1 - warmdown) < 1


def test_no_parameter_is_left_undrawn() -> None:
    model = GPT(base(SMALL, OPTIM))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    draw_parameters(model, seed=0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
