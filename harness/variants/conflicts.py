"""Finds conflicts: two variants of a recipe that replace the same part of the model, optimizer or schedule.

A variant can set a factory, a function that makes a part. The new factory replaces the factory of an earlier variant
unless it calls that factory. A new factory of optimizers may call the earlier factory but build other optimizers from
the same parameter groups; that is a conflict too. A field of ModelConfig or OptimConfig is replaced if its new value
does not depend on its old value.
"""

from __future__ import annotations

import gc
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from harness.core.errors import LlmbenchError

if TYPE_CHECKING:
    from models.parts import Parts

LONGEST_MESSAGE = 300
"""Largest number of characters that are shown of a variant's error."""
CONFIGS = ("model", "optim")
# Steps, out of 100, at which a schedule is called to see whether it calls the earlier schedule: warm-up, middle, end.
STEPS = (0, 1, 10, 50, 90, 99)


# Attributes that Python writes into every class. They are not overrides.
NOT_OVERRIDDEN = frozenset({"__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"})


class Traced:
    """Wraps a factory that a variant set. Records whether it was called, and which optimizers the factory returned."""

    def __init__(self, factory: Callable[..., Any], variant: str, component: str) -> None:
        self.factory, self.variant, self.component, self.used = factory, variant, component, False
        self.earlier: Traced | None = None
        """The previous factory of the same component, which this one may call."""
        self.returned: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        self.used = True
        made = self.factory(*arguments)
        if self.component == "optimizer" and isinstance(made, list | tuple):
            self.returned = [*made]
        return made

    @property
    def made(self) -> list[Any]:
        """The optimizers that this factory made, without optimizers that the factory before it returned."""
        given = [] if self.earlier is None else self.earlier.returned
        return [one for one in self.returned if not any(one is other for other in given)]


def check_used(traces: Sequence[Traced], component: str, advice: str) -> None:
    """Raises LlmbenchError if a factory of `component` is called, but the factory of the variant before it is not.

    `advice` is the end of the message, which says how the later variant can keep what the earlier variant made.
    """
    own = [trace for trace in traces if trace.component == component]
    for trace, later in itertools.pairwise(own):
        if later.used and not trace.used:
            raise conflict(trace.variant, later.variant, component, advice)


def conflict(first: str, second: str, what: str, advice: str) -> LlmbenchError:
    """The error which says that variant `second` replaces the part `what`, which variant `first` set."""
    return LlmbenchError(
        f"variants '{first}' and '{second}' conflict: both replace {what}; leave one out, or let '{second}' {advice}"
    )


def checked_optimizer(last: Traced) -> Callable[..., Any]:
    """Returns a factory that calls `last`, the last optimizer factory, and checks the optimizers that it returns.

    The check raises LlmbenchError if an optimizer of an earlier variant is missing.
    """

    def optimizer(*arguments: Any) -> Any:
        chain = [last]
        while chain[0].earlier is not None:
            chain.insert(0, chain[0].earlier)
        for trace in chain:
            trace.used, trace.returned = False, []
        chain = chain[1:]  # the base's optimizers may be replaced
        try:
            made = last(*arguments)
        except Exception as error:
            if misfit := _misfit(chain, error):
                raise misfit from error
            raise
        check_used(chain, "optimizer", "wrap `parts.optimizer`")
        for place, trace in enumerate(chain):
            for later in chain[place + 1 :]:
                held = {id(one) for one in _held_by(later.returned)}
                if any(id(one) not in held for one in trace.made):
                    advice = "keep the optimizers that `parts.optimizer` returns, in its list or as an attribute"
                    raise conflict(trace.variant, later.variant, "optimizer", advice)
        return made

    return optimizer


def _misfit(chain: Sequence[Traced], error: Exception) -> LlmbenchError | None:
    """The error to raise if another variant's optimizers made a factory fail; None if there is another cause."""
    failed = next((place for place, trace in enumerate(chain) if trace.used and not trace.returned), 0)
    givers = [trace.variant for trace in chain[:failed] if trace.made]
    if not givers or isinstance(error, LlmbenchError):
        return None
    first, second, shown = givers[-1], chain[failed].variant, f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]
    return LlmbenchError(
        f"variants '{first}' and '{second}' conflict: '{second}' fails on the optimizers of '{first}' ({shown}); "
        f"leave one out"
    )


def _held_by(roots: list[Any]) -> Iterator[Any]:
    """Yields all objects that can be reached from `roots` through attributes, collections and closures."""
    from torch import Tensor, nn

    nowhere = (type, ModuleType, Tensor, nn.Module, Traced, str, bytes, int, float)
    waiting, seen = [*roots], dict[int, Any]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, nowhere):
            continue
        seen[id(one)] = one
        yield one
        if isinstance(one, FunctionType):  # without its globals, which hold the whole file
            waiting += [*(one.__defaults__ or ()), *(one.__closure__ or ())]
        else:
            waiting += gc.get_referents(one)


def check_schedules(parts: Parts, traces: Sequence[Traced]) -> None:
    """Raises LlmbenchError if the last schedule never calls an earlier variant's schedule."""
    for step in STEPS:
        parts.schedule(step, 100, parts.optim)
    check_used(traces, "schedule", "call `parts.schedule`")


def check_muon(variant: str, before: type, after: type, setters: dict[str, str]) -> None:
    """Add to `setters` the attributes of Muon that `variant` overrides: name of the attribute -> variant.

    Raises LlmbenchError if `variant` replaces an attribute that an earlier variant overrides. A method that calls
    `super()` extends the earlier method; any other method replaces it.
    """
    added = [cls for cls in after.__mro__ if cls not in before.__mro__]
    own = {name: value for cls in reversed(added) for name, value in vars(cls).items() if name not in NOT_OVERRIDDEN}
    for name, value in own.items():
        first = setters.get(name)
        if first and (before not in after.__mro__ or "super" not in _names_in(value)):
            raise conflict(first, variant, f"Muon's {name}", f"call `super().{name}`")
    if setters and before not in after.__mro__:
        raise conflict(next(iter(setters.values())), variant, "muon", "use `parts.wrap(muon=...)`")
    setters |= dict.fromkeys(own, variant)


def _names_in(value: Any) -> tuple[str, ...]:
    """Names that a method's code uses. Decorators such as `torch.no_grad()` are unwrapped first."""
    function = inspect.unwrap(value) if callable(value) else value
    return function.__code__.co_names if isinstance(function, FunctionType) else ()


def check_rates(traces: Sequence[Traced], muon: type, optimizers: Sequence[Any]) -> None:
    """Raises LlmbenchError if the optimizers do not use each variant's `lr_scale` and `muon`.

    The cause may be a later variant, which replaces the `lr_scale` of an earlier one without calling it.
    """
    check_used(traces, "lr_scale", "multiply by `parts.lr_scale(name, parameter)`")
    for trace in traces:
        unused = trace.component == "lr_scale" and not trace.used
        if unused or (trace.component == "muon" and not any(isinstance(one, muon) for one in _held_by([*optimizers]))):
            raise LlmbenchError(
                f"variant '{trace.variant}' changes {trace.component}, which no optimizer of this recipe uses; leave "
                f"the variant out"
            )


def changed_fields(before: Parts, after: Parts) -> Iterator[tuple[str, Any]]:
    """Yields name and new value of each config field that `after` changes, such as (`optim.muon_lr`, 0.1)."""
    for config in CONFIGS:
        old, new = getattr(before, config), getattr(after, config)
        for field in fields(old):
            if (value := getattr(new, field.name)) != getattr(old, field.name):
                yield f"{config}.{field.name}", value


def check_configs(
    variant: str, before: Parts, after: Parts, setters: dict[str, str], on_base: Callable[[], tuple[Parts, Parts]]
) -> None:
    """Add to `setters` the config fields that `variant` sets: name of the field -> variant.

    Raises LlmbenchError if `variant` ignores a value that an earlier variant set, that is, if it sets the same value
    when it is applied alone. `on_base` returns the base, and the base with `variant` alone.
    """
    changed = dict(changed_fields(before, after))
    if setters.keys() & changed.keys():
        alone = dict(changed_fields(*on_base()))
        for name in sorted(setters.keys() & changed.keys()):
            if alone.get(name) == changed[name]:
                raise conflict(setters[name], variant, name, f"compute it from `parts.{name}`")
    setters |= dict.fromkeys(changed, variant)
