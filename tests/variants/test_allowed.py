"""The lists of the static check against the torch that is installed: nothing on them leads to a file or a frame."""

from __future__ import annotations

import functools
import importlib
import inspect
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from harness.variants.allowed import BASE_MODULES, INTERNALS, MODULES, RELIED_ON
from harness.variants.check import is_listed, reach_problems
from harness.variants.scopes import is_module
from models.gpt import GPT, base
from models.parts import ModelConfig, OptimConfig


def test_every_listed_name_exists_and_is_no_module() -> None:
    for module, names in MODULES.items():
        namespace = importlib.import_module(module)
        for name in names:
            assert hasattr(namespace, name), f"{module}.{name}"
            value = getattr(namespace, name)
            assert is_module(f"{module}.{name}") or not isinstance(value, types.ModuleType), f"{module}.{name}"


def test_the_base_hands_out_no_module() -> None:
    for module in BASE_MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            assert not (isinstance(value, types.ModuleType) and is_listed(f"{module}.{name}")), f"{module}.{name}"


def test_all_of_torchs_own_names_on_modules_and_optimizers_are_covered() -> None:
    seen: set[str] = set()

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            seen.update(dir(ctx))
            return x

    parameter = nn.Parameter(torch.ones(1))
    Identity.apply(parameter)
    relied_on = {*dir(nn.Module()), *dir(torch.optim.Optimizer([parameter], {}))}
    private = {name for name in seen | relied_on if name.startswith("_") and not name.startswith("__")}
    assert private <= INTERNALS
    public = {name for name in relied_on if not name.startswith("_")}
    # Defined by every model and optimizer, or set by an optimizer on itself.
    free = {"forward", "extra_repr", "step", "state", "param_groups", "defaults"}
    assert public - free <= RELIED_ON | {"OptimizerPreHook", "OptimizerPostHook"}


def allowed_steps(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that the check lets a variant read off this value."""
    for name in dir(value):
        if not list(reach_problems(name)):
            try:
                yield name, inspect.getattr_static(value, name)
                yield name, getattr(value, name)
            except (AttributeError, RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError):
                continue


FORBIDDEN_KINDS = (types.ModuleType, types.FrameType, types.CodeType, types.TracebackType)


def test_no_chain_of_allowed_attributes_leads_to_a_module_or_a_frame() -> None:
    """A walk over what a variant can hold: listed names, the base's classes, and one object of each kind."""
    config = ModelConfig(vocab_size=8, num_layers=1, dim=32, num_heads=2, num_kv_heads=1, ffn_dim=32)
    parts = base(config, OptimConfig(muon_lr=0.1, embed_lr=0.1, head_lr=0.1, scalar_lr=0.1))
    model = GPT(parts)
    loss = model(torch.zeros(1, 2, dtype=torch.int64)).logits_BTV.sum()
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    roots: list[tuple[str, Any]] = [
        *((f"{m}.{n}", getattr(importlib.import_module(m), n)) for m, names in MODULES.items() for n in names),
        *(
            (f"{m}.{n}", v)
            for m in BASE_MODULES
            for n, v in vars(importlib.import_module(m)).items()
            if is_listed(f"{m}.{n}")
        ),
        *(
            ("value", value)
            for value in (model, loss, loss.grad_fn, parts, config, model.head.out.weight, caught.value)
        ),
        *(("optimizer", optimizer) for optimizer in parts.optimizer(model, parts.optim)),
        *(("function", value) for value in (lambda: 0, (i for i in ()), functools.partial(int), functools.cache(int))),
        *(
            ("plain", value)
            for value in ("", b"", 1, 1.0, 1j, [], {}, (), set(), slice(0), range(1), iter([]), property())
        ),
    ]
    warnings.simplefilter("ignore")  # some attributes warn when they are read
    waiting, seen = [(path, value, 0) for path, value in roots], {}
    while waiting:
        path, value, depth = waiting.pop()
        for name, found in allowed_steps(value):
            if isinstance(found, FORBIDDEN_KINDS):
                assert is_module(f"{path}.{name}"), f"{path}.{name} is {found!r}"
            elif depth < 2 and id(found) not in seen:
                seen[id(found)] = found  # kept alive, or its id would be given away
                waiting.append((f"{path}.{name}", found, depth + 1))
    assert len(seen) > 1500
