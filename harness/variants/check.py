"""The static check of a variant's file, made on its syntax tree before anything of it runs.

An imported name means one dotted name in the whole file, a module may only be used before a dot, and an attribute is
judged by its name. What only a running program shows is left to the confinement of the processes and to the
probes (docs/threat-model.md).
"""

from __future__ import annotations

import ast
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.variants import allowed
from harness.variants.scopes import FIRST_ARGUMENTS, KNOWN_MODULES, File, Function, bound_names, class_scope, is_module

# Limits on literals: far above what an idea needs (the committed variants have at most 14 constants and 20 characters
# of strings), far below what stored knowledge of a text takes (assumption).
MAX_FILE_BYTES = 64 * 1024
MAX_CONSTANTS = 256
MAX_STRING_BYTES = 2000
MAX_INTEGER_BITS = 64
# What `ast.parse` and `compile` raise on a text that is not Python, or that is nested too deeply for them.
PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
NOT_A_BASE = frozenset({"torch.Tensor", "torch.nn.Buffer", "torch.nn.Parameter"})


def check_source(text: str, path: Path) -> None:
    """Raises LlmbenchError where a variant's source breaks the contract, with the line and the fix."""
    _check_text(text, path)
    tree = _parse(text, path)
    if not (ast.get_docstring(tree) or "").partition("\n")[0].strip():
        raise LlmbenchError(f"{path}: add a docstring whose first line states the change and its source")
    file = File.of(tree)
    found = [(getattr(node, "lineno", 1), problem) for node in file.nodes for problem in _problems(file, node)]
    if found:
        line, problem = min(found, key=lambda pair: pair[0])
        raise LlmbenchError(f"{path}:{line}: {problem}")
    _check_literals(file, path)
    if not any(isinstance(node, ast.FunctionDef) and node.name == "apply" for node in tree.body):
        raise LlmbenchError(f"{path}: define `def apply(parts: Parts) -> Parts` at the top level")


def _check_text(text: str, path: Path) -> None:
    size = len(text.encode(errors="replace"))
    if size > MAX_FILE_BYTES:
        raise LlmbenchError(f"{path}: {size:,} bytes, a variant may have {MAX_FILE_BYTES:,}; make it one idea")
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        for character in line:
            # They can make a reviewer see another text than Python reads (CVE-2021-42574).
            if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") and character != "\t":
                raise LlmbenchError(f"{path}:{number}: invisible character U+{ord(character):04X}; remove it")


def _parse(text: str, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an escape like \d: Python warns of it today and refuses it tomorrow
            tree = ast.parse(text)
            compile(text, str(path), "exec", dont_inherit=True)  # refuses what the grammar allows and the language not
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise LlmbenchError(f"{path}{line}: syntax error: {error.msg}") from error
    except PARSE_ERRORS as error:
        raise LlmbenchError(f"{path}: syntax error: {error or 'nested too deeply'}") from error
    return tree


def _check_literals(file: File, path: Path) -> None:
    """Raises LlmbenchError where constants could hold knowledge of a text, or weights."""
    dropped = {node.value for node in file.nodes if isinstance(node, ast.Expr)}  # docstrings among them
    constants = [node for node in file.nodes if isinstance(node, ast.Constant) and node not in dropped]
    texts = [node.value for node in constants if isinstance(node.value, str | bytes)]
    size = sum(len(text.encode(errors="replace") if isinstance(text, str) else text) for text in texts)
    if size > MAX_STRING_BYTES:
        raise LlmbenchError(f"{path}: {size:,} bytes of strings, a variant may have {MAX_STRING_BYTES:,}; compute them")
    count = len(constants) - len(texts)
    if count > MAX_CONSTANTS:
        raise LlmbenchError(f"{path}: {count} constants, a variant may have {MAX_CONSTANTS}; compute them")
    for node in constants:
        if isinstance(node.value, int) and node.value.bit_length() > MAX_INTEGER_BITS:
            raise LlmbenchError(f"{path}:{node.lineno}: an integer of more than {MAX_INTEGER_BITS} bits; compute it")


def _problems(file: File, node: ast.AST) -> Iterator[str]:
    """What is wrong with one node, as sentences without the file and line."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _import_problems(node)
    elif isinstance(node, ast.Name | ast.Attribute) and (path := file.path_of(node)):
        yield from _path_problems(file, node, path)
    elif isinstance(node, ast.Attribute):
        yield from _attribute_problems(node)
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        owner = node.value
        while isinstance(owner, ast.Subscript | ast.Attribute):
            owner = owner.value
        if isinstance(owner, ast.Name) and (path := file.imported.get(owner.id)):
            yield f"stores into '{path}', which is not the variant's; keep state in attributes of self"
    elif isinstance(node, ast.ClassDef):
        yield from _class_problems(file, node)
    elif isinstance(node, ast.MatchClass):
        for name in node.kwd_attrs:  # `case object(__class__=found)` reads an attribute
            yield from reach_problems(name)
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield "rebinds a name of another scope; keep state in attributes of self"
    elif isinstance(node, ast.ExceptHandler) and node.type is None:
        yield "catches everything; name the exception"
    yield from _name_problems(file, node)


def _import_problems(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    paths: list[str] = []
    if isinstance(node, ast.Import):
        unknown = [alias.name for alias in node.names if alias.name not in KNOWN_MODULES]
    else:
        module = "." * node.level + (node.module or "")
        unknown = [] if is_module(module) else [module]
        paths = [f"{node.module}.{alias.name}" for alias in node.names]
    if unknown:
        others = sorted(name for name in allowed.MODULES if not name.startswith(("__", "torch")))
        known = ", ".join([*sorted(allowed.BASE_MODULES), *others])
        yield f"imports '{unknown[0]}'; a variant may import torch, {known}"
    else:
        yield from (_unlisted(path) for path in paths if not is_module(path) and not is_listed(path))


def is_listed(path: str) -> bool:
    """Whether a variant may use this dotted name that starts at an import."""
    module, _, name = path.rpartition(".")
    if module in allowed.BASE_MODULES:
        return not name.startswith("_") and name not in allowed.NOT_OF_THE_BASE
    return name in allowed.MODULES.get(module, ()) or path.startswith("torch._foreach_")


def _unlisted(path: str) -> str:
    unknown = "not among the names that a variant may use (harness/variants/allowed.py)"
    reason = allowed.OWNED.get(path.rpartition(".")[2], unknown)
    return f"reaches for '{path}': {reason}; remove it"


def _path_problems(file: File, node: ast.Name | ast.Attribute, path: str) -> Iterator[str]:
    """A dotted name that starts at an import."""
    parent = file.parent[node]
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
        yield f"assigns to '{path}', which is not the variant's; set attributes of self only"
    elif is_module(path):
        if not isinstance(parent, ast.Attribute):
            yield f"uses the module '{path}' as a value; write a dotted name, or call your own value something else"
    elif isinstance(node, ast.Attribute) and not is_listed(path):
        yield _unlisted(path)
    elif path.startswith("torch.") and path.rpartition(".")[2][0].isupper() and isinstance(node.ctx, ast.Load):
        called = isinstance(parent, ast.Call) and parent.func is node
        if not (called or isinstance(parent, ast.Attribute) or node in file.types):
            # As the `self` of a function of the variant, the class could be changed for everybody.
            yield f"hands on the class '{path}'; call it, or wrap the call in a lambda"


def _attribute_problems(node: ast.Attribute) -> Iterator[str]:
    """An attribute of a value, judged by its name."""
    owner = node.value.id if isinstance(node.value, ast.Name) else ""
    if isinstance(node.ctx, ast.Load):
        from_super = isinstance(node.value, ast.Call) and _is_bare_super(node.value)
        if node.attr in ("__init__", "forward"):
            if not from_super:
                yield f"reaches for '{node.attr}' of something else; write super().{node.attr}(), or call the object"
        else:
            private = owner in FIRST_ARGUMENTS or from_super or node.attr in ("_asdict", "_replace")
            yield from reach_problems(node.attr, private=private)
    elif owner not in FIRST_ARGUMENTS - {"cls"}:
        yield f"assigns to '.{node.attr}' of something else; set attributes of self only"
    elif node.attr in allowed.RELIED_ON | allowed.DEFINED_ONCE:
        yield f"replaces '{node.attr}' on an object; define it in the class, or choose another name"
    else:
        yield from reach_problems(node.attr, private=True)


def _is_bare_super(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "super" and not call.args and not call.keywords


def reach_problems(name: str, *, private: bool = False) -> Iterator[str]:
    """What is wrong with reading the attribute `name` of a value; `private` where the value is the reader's own."""
    if name in allowed.OWNED:
        yield f"reaches for '{name}': {allowed.OWNED[name]}; remove it"
    elif name.startswith("register_") and "hook" in name:
        yield f"reaches for '{name}': hooks run where no reader looks; do it in `forward` or in the optimizer"
    elif name.startswith("__") or name in allowed.INTERNALS or (name.startswith("_") and not private):
        yield f"reaches for '{name}': private names belong to their owner; remove it"


def _class_problems(file: File, node: ast.ClassDef) -> Iterator[str]:
    if node.keywords:
        yield f"class {node.name} has keywords, through which a metaclass replaces anything; remove them"
    for base in node.bases:
        inner = base.value if isinstance(base, ast.Subscript) else base
        path = file.path_of(inner)
        if path is None and not (isinstance(inner, ast.Name) and inner.id in file.classes):
            yield f"class {node.name} has a base that cannot be read here; name an imported class or one of this file"
        elif path in NOT_A_BASE or (path or "").startswith("models.parts."):
            yield f"class {node.name} extends '{path}', which the harness relies on; hold one instead"
    for name in {name for inner in class_scope(node) for name in bound_names(inner)}:
        if name in allowed.RELIED_ON:
            yield f"class {node.name} defines '{name}', which the harness relies on; choose another name"
        elif name in allowed.INTERNALS or (name.startswith("__") and name not in allowed.DUNDERS):
            yield f"class {node.name} defines '{name}', which belongs to Python or torch; choose another name"


def _name_problems(file: File, node: ast.AST) -> Iterator[str]:
    bound = list(bound_names(node))
    method = isinstance(node, Function) and isinstance(file.parent[node], ast.ClassDef)  # judged with its class
    for name in {*bound, *([node.id] if isinstance(node, ast.Name) else [])}:
        if name in allowed.FORBIDDEN_BUILTINS and not method:
            yield f"uses '{name}'; a variant only builds a model, remove it or give your own value another name"
        elif name.startswith("__") and not method:
            yield f"uses '{name}', which belongs to Python; remove it"
        elif name in file.ambiguous:
            yield f"imports two things as '{name}'; give one another name"
        elif name in FIRST_ARGUMENTS and bound and node not in file.first_arguments:
            yield f"binds '{name}', which only the first argument of a method may be called; choose another name"
