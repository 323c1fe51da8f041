"""A variant's cost in statements.

Expressions that do the work of statements cost as much as the statements, so that packing code into few lines makes it
no cheaper.

A call or an operator is one unit of work; an index, such as in `x[i]`, is half a unit. The cost is the larger of two
numbers. The first is the number of statements, plus the statements that expressions replace (`_stand_ins`), plus the
work beyond WORK_OF_A_STATEMENT units for each of these statements. The second is half the work of the whole file. The
second is larger only if the code is denser than in any file of this repository.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import fields
from functools import lru_cache

from harness.core.errors import LlmbenchError
from harness.variants.canonical import PARSE_ERRORS, Documented, canonical_tree
from models.parts import Parts

# Units of work that are free in each statement, and units of a whole file that cost one statement. Measured in the
# committed variants and tests/honest: at most 5.5 units in a statement, and at most 1.5 units per statement in a file.
# Code with one operation in each line costs 0.8 times as much if it is packed into expressions of 20 operations.
WORK_OF_A_STATEMENT = 6
WORK_OF_A_FILE = 2
# Statements in expressions that are free, so that plain style costs nothing: one conditional expression, two
# comprehensions, or assignments of two values.
FREE_STYLE = 2
# Up to four entries of a table are free, such as the four sides of a padding. Up to six arguments of a call are free.
FREE_ENTRIES, FREE_ARGUMENTS = 4, 6
STRING_BYTES = 32
"""About the number of characters in a line of code. A longer string costs one more statement for each such line."""
FACTORIES = frozenset(field.name for field in fields(Parts))
# Decorators that only declare what a function is.
MARKS = frozenset(
    {"abstractmethod", "cache", "classmethod", "dataclass", "lru_cache", "no_grad", "once_differentiable"}
)
MARKS |= {"overload", "property", "staticmethod"}
LOOPS = frozenset({"accumulate", "filter", "map", "reduce", "starmap"})
Work = ast.Call | ast.BinOp | ast.BoolOp | ast.Compare | ast.IfExp | ast.NamedExpr | ast.comprehension
Sequence = ast.Assign | ast.BoolOp | ast.Compare | ast.Expr | ast.IfExp | ast.Lambda | ast.Return | ast.Subscript
Sequence |= ast.UnaryOp


@lru_cache(maxsize=256)
def count_statements_of(text: str) -> int:
    """Cost of a source text in statements, without docstrings. Raises LlmbenchError if the text is not Python."""
    try:
        tree = canonical_tree(text)  # the digest is made of the same tree, so texts with equal digests cost the same
        counted = [_Statement(statement, parents) for statement, parents in _statements(tree)]
    except PARSE_ERRORS as error:
        raise LlmbenchError(
            f"the statements of a variant cannot be counted ({error}); correct the variant's file"
        ) from error
    free = min(FREE_STYLE, sum(one.style for one in counted))
    return max(sum(one.cost for one in counted) - free, math.ceil(sum(one.work for one in counted) / WORK_OF_A_FILE))


Parents = dict[ast.AST, ast.AST]


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, Parents]]:
    """Yields every statement except docstrings, and also the statements of code that is written in a string."""
    nodes = list(ast.walk(tree))
    parents = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
    texts = set(_docstrings(tree))
    for node in nodes:
        if isinstance(node, ast.stmt) and node not in texts:
            yield node, parents
        elif isinstance(node, ast.Constant) and parents[node] not in texts and (code := _code(node.value)):
            yield from _statements(code)


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yields the statements that are docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]


def _code(value: object) -> ast.Module | None:
    """The syntax tree of a string that is code, for example for `exec`; None for other values.

    Code in a string costs as much as other code.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not any(mark in text for mark in "=(\n;"):
        return None
    try:
        return ast.parse(text)
    except PARSE_ERRORS:
        return None


class _Statement:
    """Cost of one statement: one, plus the statements that its expressions replace, plus work beyond the free units."""

    def __init__(self, statement: ast.stmt, parents: Parents) -> None:
        self.nodes: list[ast.AST] = []
        waiting: list[ast.AST] = [statement]
        while waiting:
            node = waiting.pop()
            self.nodes.append(node)
            waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
        annotations = {
            inner
            for node in self.nodes
            for place in (getattr(node, "annotation", None), getattr(node, "returns", None))
            if isinstance(place, ast.AST)
            for inner in ast.walk(place)
            if not isinstance(inner, ast.Call)
        }
        self.work = sum(_work(node) for node in self.nodes if node not in annotations)
        self.stand_ins = sum(_stand_ins(node, parents) for node in self.nodes)
        plain = (ast.IfExp, ast.Assign)
        styled = [node for node in self.nodes if len(getattr(node, "generators", ())) == 1 or isinstance(node, plain)]
        self.style = sum(_stand_ins(node, parents) for node in styled)

    @property
    def cost(self) -> int:
        written_out = 1 + self.stand_ins
        return written_out + max(0, math.ceil(self.work - WORK_OF_A_STATEMENT * written_out))


def _work(node: ast.AST) -> float:
    if isinstance(node, ast.Call):
        return 0.0 if isinstance(node.func, ast.Lambda) else 1.0
    if isinstance(node, ast.Compare):
        return float(len(node.ops))
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1.0
    if isinstance(node, ast.UnaryOp):
        return 0.0 if isinstance(node.operand, ast.Constant) else 1.0
    return 1.0 if isinstance(node, ast.BinOp | ast.Await) else 0.5 if isinstance(node, ast.Subscript) else 0.0


def _works(*nodes: ast.AST) -> int:
    """Number of these expressions that contain a call, an operator or a loop."""
    return sum(any(isinstance(inner, Work) for inner in ast.walk(node)) for node in nodes)


def _calls(*nodes: ast.AST) -> int:
    """Number of these expressions that contain a call."""
    return sum(any(isinstance(inner, ast.Call) for inner in ast.walk(node)) for node in nodes)


def _stand_ins(node: ast.AST, parents: Parents) -> int:
    """Number of statements that this node replaces, in addition to the statement that contains it."""
    match node:
        case ast.NamedExpr():
            return 1
        case ast.Lambda():
            return _lambda(node, parents)
        case ast.IfExp():
            return 2
        case ast.BoolOp():
            named = (ast.NamedExpr, ast.Compare)
            return _calls(*(value for value in node.values[1:] if not isinstance(value, named)))
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
            lazy = isinstance(node, ast.GeneratorExp) or isinstance(parents[node], ast.Expr)
            return _works(node.elt) * (1 if lazy else 2) + _further_loops(node.generators)
        case ast.DictComp():
            return 2 * min(1, _works(node.key, node.value)) + _further_loops(node.generators)
        case ast.comprehension():
            return _calls(*node.ifs)
        case ast.arguments():
            defaults = [default for default in (*node.defaults, *node.kw_defaults) if default]
            return _works(*(default for default in defaults if not isinstance(default, ast.Lambda)))
        case ast.Assign():
            unpacked = isinstance(node.targets[0], ast.Tuple | ast.List) and isinstance(
                node.value, ast.Tuple | ast.List
            )
            return len(node.targets) - 1 + (len(node.value.elts) - 1 if unpacked else 0)  # type: ignore[attr-defined]
        case ast.With() | ast.AsyncWith():
            return len(node.items) - 1
        case ast.Match():
            return len(node.cases) - 1
        case ast.Call():
            words = node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "split" else None
            names = len(words.value.split()) if isinstance(words, ast.Constant) and isinstance(words.value, str) else 0
            loop = isinstance(node.func, ast.Name) and node.func.id in LOOPS
            arguments = len(node.args) + len(node.keywords)
            return loop + max(0, names - FREE_ENTRIES) + max(0, arguments - FREE_ARGUMENTS)
        case ast.Constant(value=str() | bytes() as text) if not _code(text):
            return max(0, len(text) - 1) // STRING_BYTES
        case ast.Tuple(elts=entries) | ast.List(elts=entries) | ast.Set(elts=entries) | ast.Dict(values=entries):
            return _display(node, entries, parents[node])
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return sum(not _is_mark(decorator) for decorator in node.decorator_list)
    return 0


def _further_loops(generators: list[ast.comprehension]) -> int:
    """Number of loops of a comprehension after its first. The first counts too if it only gives a name to one value."""
    first = generators[0].iter
    return len(generators) - 1 + (isinstance(first, ast.Tuple | ast.List | ast.Set) and len(first.elts) == 1)


def _lambda(node: ast.Lambda, parents: Parents) -> int:
    """Number of statements that a lambda replaces: usually two, a `def` and a `return`.

    A lambda that is called at once replaces one statement for each argument. A lambda that makes a part of the model,
    as in `return replace(parts, head=lambda ...)`, is free.
    """
    parent = parents[node]
    if isinstance(parent, ast.Call) and parent.func is node:
        return max(1, len(parent.args) + len(parent.keywords))
    if isinstance(parent, ast.keyword) and parent.arg in FACTORIES:
        call = parents[parent]
        name = call.func if isinstance(call, ast.Call) else None
        if isinstance(name, ast.Name) and name.id == "replace" and isinstance(parents[call], ast.Return):
            return 0
    return 1 if isinstance(parent, ast.Assign) else 2


def _display(node: ast.expr, entries: list[ast.expr], parent: ast.AST) -> int:
    """Number of statements that a collection replaces: its entries beyond FREE_ENTRIES, or its entries with calls.

    Of the entries with calls, one is free, or two in a `return`. The larger of the two numbers is used.
    """
    if isinstance(getattr(node, "ctx", None), ast.Store) or (
        isinstance(parent, ast.Subscript) and parent.slice is node
    ):
        return 0
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Tuple | ast.List):
        return 0  # counted at the assignment
    entries = [entry for entry in entries if not isinstance(entry, ast.NamedExpr)]
    in_a_row = _calls(*entries) - (2 if isinstance(parent, ast.Return) else 1)  # returning two values is usual
    return max(in_a_row if isinstance(parent, Sequence) else 0, len(entries) - FREE_ENTRIES, 0)


def _is_mark(decorator: ast.expr) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    called = [*decorator.args, *decorator.keywords] if isinstance(decorator, ast.Call) else []
    last = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
    return last in MARKS and not _works(*called)
