"""The cost of a source: statements, and whatever stands in for statements, so that no packing makes code cheaper."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.variants.cost import count_statements_of
from harness.variants.source import read_variant
from tests.make import ROOT

# Cost of each committed variant, which prices claims on the board.
COSTS = {"placebo": 11, "qk_norm": 13, "requery": 14, "token_smear": 17, "zero_compute_expert": 29}
HONEST = sorted((ROOT / "tests" / "honest").glob("*.py"))
HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nimport torch\n'
APPLY = "def apply(parts):\n    return replace(parts, block=lambda final, layer: work(parts.block(final, layer)))\n"


def cost(body: str) -> int:
    return count_statements_of(HEAD + body + APPLY)


def statements_of(text: str) -> int:
    """Statements alone, docstrings aside."""
    nodes = list(ast.walk(ast.parse(text)))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documented = sum(isinstance(node, owners) and ast.get_docstring(node) is not None for node in nodes)
    return sum(isinstance(node, ast.stmt) for node in nodes) - documented


def test_the_committed_variants_cost_what_their_claims_say(project: Project) -> None:
    assert {name: read_variant(project, name).cost for name in COSTS} == COSTS


@pytest.mark.parametrize("path", HONEST, ids=lambda path: path.stem)
def test_plain_research_code_costs_its_statements(path: Path) -> None:
    text = path.read_text()
    assert statements_of(text) <= count_statements_of(text) <= statements_of(text) + 2


def test_no_formatting_and_no_docstring_changes_the_cost() -> None:
    plain = "def f(x):\n    y = x\n    z = y\n    return z\n"
    packed = "def f(x): y = x; z = y; return z"
    documented = '"""Doc."""\ndef f(x):\n    """Doc."""\n    # a comment\n    y = x\n    z = y\n    return z\n'
    assert {count_statements_of(text) for text in (plain, packed, documented)} == {4}


def test_a_statement_counts_wherever_it_stands() -> None:
    for path in ROOT.glob("harness/**/*.py"):
        assert count_statements_of(path.read_text()) >= statements_of(path.read_text()), path


# --- the same steps, written out and packed: every step is an expression of the value before it ---------------------

STEPS = [
    "f({0})",
    "{0} + 1",
    "g({0}) * 2",
    "torch.cat(({0}, k))",
    "{0} * a + b",
    "h({0}[0], k)",
    "self.norm({0}) - {0}",
]


def packings(steps: list[str]) -> dict[str, str]:
    """A function of these steps, written out and in eleven other ways."""
    names = [f"v{place}" for place in range(len(steps))]
    values = [step.format(name) for step, name in zip(steps, names, strict=True)]
    bound, result = list(zip(names[1:], values[:-1], strict=True)), values[-1]
    lines = [f"{name} = {value}" for name, value in bound]
    walrus = [f"({name} := {value})" for name, value in bound] + [result]
    loops = " ".join(f"for {name} in [{value}]" for name, value in bound)
    nested, called = "v0", result
    for step in steps:
        nested = step.format(f"({nested})")
    for name, value in reversed(bound):
        called = f"(lambda {name}: {called})({value})"
    defaults = ", ".join(f"{name}={value}" for name, value in bound)
    tables = ", ".join(f"lambda v: {step.format('v')}" for step in steps)
    head = "def work(v0):\n    "
    return {
        "written out": head + "\n    ".join([*lines, f"return {result}"]) + "\n",
        "semicolons": f"def work(v0): {'; '.join([*lines, f'return {result}'])}\n",
        "walrus in a tuple": f"{head}return ({', '.join(walrus)})[-1]\n",
        "walrus with and": f"{head}return {' and '.join(walrus)}\n",
        "walrus in a list of an assignment": f"{head}v = [{', '.join(walrus)}]\n    return v[-1]\n",
        "a chain of lambdas": f"{head}return {called}\n",
        "lambdas alone": f"work = lambda v0: {called}\n",
        "loops over one value": f"{head}return [{result} {loops}][0]\n",
        "a generator": f"{head}return next({result} {loops})\n",
        "default arguments": f"def work(v0, {defaults}):\n    return {result}\n",
        "a table of lambdas": f"{head}return reduce(lambda v, step: step(v), [{tables}], v0)\n",
        "text for exec": f"{head}exec({chr(10).join([*lines, f'work = {result}'])!r})\n",
        "bytes for exec": f"{head}exec({';'.join([*lines, f'work = {result}']).encode()!r})\n",
        "one huge expression": f"{head}return {nested.replace('self.norm', 'norm')}\n",
    }


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=20, max_size=40))
def test_packed_steps_cost_what_they_cost_written_out(steps: list[str]) -> None:
    found = {name: cost(text) for name, text in packings(steps).items()}
    plain = found["written out"]
    assert {name: number / plain for name, number in found.items() if number < 0.8 * plain} == {}
    dear = {"one huge expression", "a table of lambdas", "walrus with and"}  # an `if` each; a `def` and a `return` each
    assert {name: number / plain for name, number in found.items() if number > 1.2 * plain and name not in dear} == {}


def repeated(form: str, count: int = 12) -> str:
    return "\n".join(form.format(i) for i in range(count)) + "\n"


def listed(form: str, between: str = ", ", count: int = 12) -> str:
    return between.join(form.format(i) for i in range(count))


# What it is -> (packed, written out).
PACKED = {
    "conditional expressions": (
        repeated("y{0} = f({0}) if x == {0} else g({0})"),
        repeated("if x == {0}:\n    y{0} = f({0})\nelse:\n    y{0} = g({0})"),
    ),
    "conditional defaults": (repeated("y{0} = f({0}) if x else y"), repeated("y{0} = y\nif x: y{0} = f({0})")),
    "and as if": (repeated("x{0} and f({0})"), repeated("if x{0}: f({0})")),
    "comprehensions": (
        repeated("y{0} = [f(x) for x in xs]"),
        repeated("y{0} = []\nfor x in xs: y{0}.append(f(x))"),
    ),
    "comprehensions for their effect": (repeated("[f(x, {0}) for x in xs]"), repeated("for x in xs: f(x, {0})")),
    "lambdas for functions": (repeated("f{0} = lambda x: g(x, {0})"), repeated("def f{0}(x): return g(x, {0})")),
    "a table of lambdas": (
        f"t = {{{listed('{0}: lambda x: g(x, {0})')}}}\n",
        repeated("def f{0}(x): return g(x, {0})") + f"t = {{{listed('{0}: f{0}')}}}\n",
    ),
    "a class from a table": (
        f"A = type('A', (B,), {{{listed('{0!r}: lambda self: g(self, {0})')}}})\n",
        "class A(B):\n" + repeated("    def f{0}(self): return g(self, {0})"),
    ),
    "a table of names": (
        f"for name, size in [{listed('(q{0}, {0})', count=40)}]: put(name, size)\n",
        repeated("put(q{0}, {0})", count=40),
    ),
    "names in a string": (
        f"for name in '{listed('q{0}', ' ', count=40)}'.split(): put(name, 1)\n",
        repeated("put(q{0}, 1)", count=40),
    ),
    "arguments as a table": (f"t = dict({listed('q{0}={0}', count=40)})\n", repeated("t.q{0} = {0}", count=40)),
    "tuples": (f"{listed('y{0}')} = {listed('f({0})')}\n", repeated("y{0} = f({0})")),
    "targets": (f"{listed('y{0}', ' = ')} = f(0)\n", repeated("y{0} = f(0)")),
    "calls side by side": (f"x = [{listed('f({0})')}]\n", repeated("f({0})")),
    "calls side by side in a return": (
        f"def g():\n    return {listed('f({0})')}\n",
        "def g():\n" + repeated("    f({0})"),
    ),
    "calls side by side in a lambda": (
        "".join(f"g{i} = lambda: (f(), h(), k(), l())\n" for i in range(9)),
        "".join(f"def g{i}():\n    f()\n    h()\n    k()\n    l()\n" for i in range(9)),
    ),
    "decorators": (repeated("@f{0}") + "def g(): pass\n", "def g(): pass\n" + repeated("g = f{0}(g)")),
    "contexts": (
        f"with {listed('f({0})')}: pass\n",
        "".join(f"{' ' * i}with f({i}):\n" for i in range(12)) + " " * 12 + "pass\n",
    ),
    "cases": (
        f"match x:\n{repeated('    case {0}: f({0})')}",
        "if x == 0: f(0)\n" + "".join(f"elif x == {i}: f({i})\n" for i in range(1, 12)),
    ),
    "annotations": (
        f"def g({listed('x{0}: (y{0} := f({0}))')}): pass\n",
        repeated("y{0} = f({0})") + "def g(): pass\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_what_stands_in_for_statements_costs_what_they_do(name: str) -> None:
    packed, plain = PACKED[name]
    assert 0.8 * cost(plain) <= cost(packed) <= 1.3 * cost(plain)


def test_what_cannot_be_parsed_has_no_cost() -> None:
    for text in ("def f(", "x = " + "(" * 500 + ")" * 500):
        with pytest.raises(LlmbenchError, match="cannot be counted"):
            count_statements_of(text)
