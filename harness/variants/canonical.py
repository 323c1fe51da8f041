"""The part of a variant's text that runs: its syntax tree without comments, layout and docstrings.

Two texts with equal trees are the same variant. They have the same digest, and so the same seeds and runs.
"""

from __future__ import annotations

import ast
from functools import lru_cache

from harness.core.errors import LlmbenchError
from harness.core.project import sha256

# What `ast.parse` and `compile` raise for a text that is not Python or is nested too deeply.
PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Fields for a string's prefix and for type comments. They do not change what runs.
SILENT = ("kind", "type_comment", "type_ignores")


def is_text(statement: ast.stmt) -> bool:
    """Whether the statement is only a string, such as a docstring."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def canonical_tree(text: str) -> ast.Module:
    """The syntax tree of `text` without docstrings. Further strings right after a docstring are removed too.

    Raises one of PARSE_ERRORS if the text is not Python.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            while node.body and is_text(node.body[0]):
                del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())
    return tree


@lru_cache(maxsize=256)
def canonical_text(text: str) -> str:
    """The code that runs: the syntax tree written as text, independent of the file's layout.

    Raises LlmbenchError if the text is not Python.
    """
    try:
        return ast.unparse(canonical_tree(text)) + "\n"
    except PARSE_ERRORS as error:
        raise LlmbenchError(f"a variant cannot be parsed as Python ({error}); correct its file") from error


@lru_cache(maxsize=256)
def tree_digest(text: str) -> str:
    """SHA-256 of the syntax tree, written by `_written`, because the output of `ast.dump` depends on Python's version.

    Raises LlmbenchError if the text is not Python.
    """
    try:
        return sha256(_written(canonical_tree(text)).encode())
    except PARSE_ERRORS as error:
        raise LlmbenchError(f"a variant cannot be parsed as Python ({error}); correct its file") from error


def _written(value: object) -> str:
    """A tree as text: a node is `(Kind field=value ...)`.

    Empty fields are left out, because newer Python versions add some.
    """
    if isinstance(value, ast.AST):
        given = ((name, getattr(value, name, None)) for name in value._fields if name not in SILENT)
        # A constant is written even if it is None, because that is its value.
        kept = [(n, v) for n, v in given if isinstance(value, ast.Constant) or (v is not None and v != [])]
        return f"({type(value).__name__}{''.join(f' {name}={_written(content)}' for name, content in kept)})"
    if isinstance(value, list):
        return f"[{' '.join(map(_written, value))}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)  # Python limits the length of decimal numbers
    return f"{type(value).__name__}:{value!a}"
