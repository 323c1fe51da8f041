"""Facts about a whole file that the check of each node needs: imported names, scopes, places of types."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from harness.variants.allowed import BASE_MODULES, MODULES

KNOWN_MODULES = frozenset(MODULES) | BASE_MODULES
PACKAGES = frozenset(module.rpartition(".")[0] for module in KNOWN_MODULES if "." in module)
# Names that the first argument of a method may have.
FIRST_ARGUMENTS = frozenset({"self", "ctx", "cls"})
GENERIC = frozenset({"dict", "frozenset", "list", "set", "tuple"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_module(path: str) -> bool:
    """Whether a dotted name is an allowed module or a package of one."""
    return path in KNOWN_MODULES or path in PACKAGES


class File(NamedTuple):
    """One file's names. A name counts for the whole file, whichever scope binds it: the stricter reading."""

    imported: dict[str, str]
    """Name in the file -> the dotted name that it stands for."""
    ambiguous: frozenset[str]
    """Names that two imports bind differently."""
    nodes: tuple[ast.AST, ...]
    """Every node in the order of `ast.walk`, without expression contexts."""
    parent: dict[ast.AST, ast.AST]
    first_arguments: frozenset[ast.AST]
    """First arguments of methods that are called self, ctx or cls."""
    types: frozenset[ast.AST]
    """Nodes in places of types: annotations, bases, `isinstance`."""
    classes: frozenset[str]
    """Classes of this file whose name is bound only once."""

    @classmethod
    def of(cls, tree: ast.Module) -> File:
        nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.expr_context)]
        parent = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        pairs = [pair for node in nodes for pair in _imported(node)]
        imported = dict(pairs)
        times_bound = Counter(name for node in nodes for name in bound_names(node))
        methods = [node for owner in classes for node in class_scope(owner) if isinstance(node, Function)]
        firsts = [argument for node in methods for argument in (node.args.posonlyargs + node.args.args)[:1]]
        return cls(
            imported=imported,
            ambiguous=frozenset(name for name, path in pairs if imported[name] != path),
            nodes=tuple(nodes),
            parent=parent,
            first_arguments=frozenset(argument for argument in firsts if argument.arg in FIRST_ARGUMENTS),
            types=frozenset(node for root in nodes for place in _type_places(root) for node in _type_nodes(place)),
            classes=frozenset(node.name for node in classes if times_bound[node.name] == 1),
        )

    def path_of(self, node: ast.AST) -> str | None:
        """`F.pad` -> `torch.nn.functional.pad`; None if it starts at no import or goes beyond an imported value."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imported:
            return None
        path = self.imported[node.id]
        for attribute in reversed(attributes):
            if not is_module(path):
                return None
            path = f"{path}.{attribute}"
        return path


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            root = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (root, root)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def bound_names(node: ast.AST) -> Iterator[str]:
    """The names that this node itself binds."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    elif isinstance(name := getattr(node, "name", None), str):  # functions, classes, handlers, patterns, parameters
        yield name


def class_scope(owner: ast.ClassDef) -> Iterator[ast.AST]:
    """The nodes that run in a class's own scope, including the heads of its methods."""
    waiting: list[ast.AST] = list(owner.body)
    while waiting:
        node = waiting.pop()
        yield node
        body = node.body if isinstance(node, Function | ast.ClassDef | ast.Lambda) else []
        hidden = {*body} if isinstance(body, list) else {body}
        waiting.extend(child for child in ast.iter_child_nodes(node) if child not in hidden)


def _type_places(node: ast.AST) -> Iterator[ast.AST]:
    """Direct children of this node that can only be types."""
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
        yield node.annotation
    elif isinstance(node, Function) and node.returns:
        yield node.returns
    elif isinstance(node, ast.ClassDef):
        yield from node.bases
    elif isinstance(node, ast.ExceptHandler) and node.type:
        yield node.type
    elif isinstance(node, ast.MatchClass):
        yield node.cls
    elif isinstance(node, ast.Subscript) and getattr(node.value, "id", None) in GENERIC:
        yield node.slice
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("isinstance", "issubclass"):
        yield from node.args[1:]


def _type_nodes(place: ast.AST) -> Iterator[ast.AST]:
    """The names of types in such a place; anything else, such as a walrus, is an ordinary expression."""
    waiting = [place]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name | ast.Attribute):
            yield node
        elif isinstance(node, ast.Tuple | ast.List | ast.BinOp | ast.Subscript):
            waiting.extend(ast.iter_child_nodes(node))
