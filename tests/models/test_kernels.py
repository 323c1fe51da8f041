"""The gradients that are written by hand: against autograd's own, and against numerical ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.player.train import cross_entropy
from models.kernels import MAX_KEPT_POSITIONS, QUERY_BLOCK, RMSNorm, causal_attention, squared_relu


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 3, QUERY_BLOCK, QUERY_BLOCK + 1, 3 * QUERY_BLOCK - 5])
def test_attention_is_pytorchs_and_so_is_its_gradient(length: int, groups: int) -> None:
    q, k, v = draw(2, length, 4, 8), draw(2, length, 4 // groups, 8), draw(2, length, 4 // groups, 8)
    toward = draw(2, length, 4, 8).detach()
    expected = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
    ).transpose(1, 2)
    found = causal_attention(q, k, v)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad((found * toward).sum(), (q, k, v)),
        torch.autograd.grad((expected * toward).sum(), (q, k, v)),
    )


def test_long_sequences_keep_no_attention_weights() -> None:
    def kept(length: int) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()), lambda packed: packed
        ):
            causal_attention(*(draw(1, length, 1, 8, dtype=torch.float32) for _ in range(3)))
        return sum(sizes)

    assert kept(MAX_KEPT_POSITIONS) > MAX_KEPT_POSITIONS**2 / 2
    assert kept(MAX_KEPT_POSITIONS + 1) < MAX_KEPT_POSITIONS**2 / 4


def test_the_norm_is_pytorchs_and_so_is_its_gradient() -> None:
    ours, theirs = RMSNorm(16).double(), nn.RMSNorm(16, eps=1e-6).double()
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.linspace(0.5, 2, 16))
    x, toward = draw(3, 5, 16), draw(3, 5, 16).detach()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(
        torch.autograd.grad((ours(x) * toward).sum(), (x, ours.weight)),
        torch.autograd.grad((theirs(x) * toward).sum(), (x, theirs.weight)),
    )


def test_the_squared_relu_is_pytorchs_and_so_is_its_gradient() -> None:
    x, toward = draw(3, 5, 16), draw(3, 5, 16).detach()
    expected = F.relu(x).square()
    torch.testing.assert_close(squared_relu(x), expected)
    torch.testing.assert_close(
        torch.autograd.grad((squared_relu(x) * toward).sum(), x), torch.autograd.grad((expected * toward).sum(), x)
    )


def test_the_loss_is_pytorchs_and_so_is_its_gradient() -> None:
    logits, targets = draw(7, 3, 33, dtype=torch.float32), torch.arange(21).view(7, 3)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    found = cross_entropy(logits, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))


def test_a_hopeless_target_has_a_large_loss_and_no_infinite_one() -> None:
    logits = torch.tensor([[[0.0, 500.0]]])
    assert cross_entropy(logits, torch.tensor([[0]])).item() == 500
    assert cross_entropy(logits, torch.tensor([[1]])).item() == 0


def test_the_losss_gradient_may_be_scaled() -> None:
    logits, targets = draw(2, 3, 9, dtype=torch.float32), torch.ones(2, 3, dtype=torch.int64)
    (once,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
    (thrice,) = torch.autograd.grad(3 * cross_entropy(logits, targets), logits)
    torch.testing.assert_close(thrice, 3 * once)
