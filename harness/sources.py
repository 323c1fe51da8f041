"""A variant's file: read, checked on its syntax tree before anything of it runs, and its cost in statements.

The harness names no variant; it finds them in `models/variants/`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import LlmbenchError, did_you_mean
from harness.project import Project, sha256

NAME = re.compile(r"^[a-z][a-z0-9_]*$")

# Modules without side effects; with torch and models.* this is all that an idea about training needs.
PURE_MODULES = frozenset(
    {"__future__", "abc", "collections", "dataclasses", "enum", "functools", "itertools", "math", "operator", "typing"}
)
# The base's own modules, which every run's code digest covers. Another file of the player's side would be in no
# digest and cost nothing.
BASE_MODULES = frozenset({"models.gpt", "models.moe", "models.optim", "models.parts"})
# Built-ins that reach past the imports.
FORBIDDEN_NAMES = frozenset(
    {"__builtins__", "__import__", "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "globals", "input"}
    | {"locals", "open", "print", "setattr", "vars"}
)
# Attributes that lead from an allowed module to files, processes or the interpreter, as in `torch.os.system`.
FORBIDDEN_ATTRIBUTES = frozenset(
    {
        "builtins",
        "ctypes",
        "distributed",
        "from_file",
        "gc",
        "hub",
        "importlib",
        "inspect",
        "io",
        "load",
        "multiprocessing",
    }
    | {"os", "pathlib", "pickle", "save", "shutil", "socket", "subprocess", "sys", "tempfile", "threading", "urllib"}
)


@dataclass(frozen=True)
class VariantSource:
    """One variant's file, checked on its syntax tree but not imported."""

    name: str
    path: Path
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        return sha256(self.text.encode())

    @property
    def cost(self) -> int:
        """Statements on the syntax tree, docstrings aside: no formatting or semicolon can hide one."""
        return count_statements_of(self.text)

    @property
    def summary(self) -> str:
        """First line of the docstring: the change and its source."""
        return (ast.get_docstring(ast.parse(self.text)) or "").partition("\n")[0]


def count_statements_of(text: str) -> int:
    """Number of statements in a source text, without docstrings. Raises LlmbenchError where it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise LlmbenchError(f"the statements of this source cannot be counted: {error}") from error
    statements = sum(isinstance(node, ast.stmt) for node in ast.walk(tree))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = sum(
        isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None for node in ast.walk(tree)
    )
    return statements - docstrings


def variant_names(project: Project) -> list[str]:
    """Names of all variants, sorted."""
    return sorted(path.stem for path in project.variants.glob("*.py") if not path.stem.startswith("_"))


def read_variant(project: Project, name: str) -> VariantSource:
    """One variant's source. Raises LlmbenchError where it is missing or breaks the contract."""
    if name in variant_names(project) and not NAME.match(name):
        raise LlmbenchError(f"models/variants/{name}.py: name it in lower case, digits and underscores")
    if name not in variant_names(project):
        raise LlmbenchError(
            f"there is no variant '{name}'{did_you_mean(name, variant_names(project))} "
            f"(`llmbench variants` lists them; a new one is a file models/variants/{name}.py)"
        )
    path = project.variants / f"{name}.py"
    try:
        source = VariantSource(name, path, path.read_bytes().decode("utf-8"))  # the bytes that are digested
        check_source(source.text, path.relative_to(project.root))
    except (OSError, UnicodeDecodeError) as error:
        raise LlmbenchError(f"{path} cannot be read: {error}") from error
    return source


def check_source(text: str, path: Path) -> None:
    """Raises LlmbenchError where a variant's source breaks the contract, with the line and the fix."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise LlmbenchError(f"{path}{line}: syntax error: {message}") from error
    if not (ast.get_docstring(tree) or "").partition("\n")[0].strip():
        raise LlmbenchError(f"{path}: add a docstring whose first line states the change and its source")
    for node in ast.walk(tree):
        _check_node(node, path)
    if not any(isinstance(node, ast.FunctionDef) and node.name == "apply" for node in tree.body):
        raise LlmbenchError(f"{path}: define `def apply(parts: Parts) -> Parts` at the top level")


def _check_node(node: ast.AST, path: Path) -> None:
    """Raises LlmbenchError where one node of the syntax tree reaches past torch and the base."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            modules = [("." * node.level) + (node.module or "")]
            for alias in node.names:
                _check_attribute(alias.name, node.lineno, path)
        for module in modules:
            if module not in BASE_MODULES and module.partition(".")[0] not in {*PURE_MODULES, "torch"}:
                raise LlmbenchError(
                    f"{path}:{node.lineno}: imports '{module}'; a variant may import torch, "
                    f"{', '.join(sorted(BASE_MODULES))} and {', '.join(sorted(PURE_MODULES - {'__future__'}))}"
                )
            for part in module.split("."):
                _check_attribute(part, node.lineno, path)
    elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
        raise LlmbenchError(f"{path}:{node.lineno}: uses '{node.id}'; a variant only builds a model, remove it")
    elif isinstance(node, ast.Attribute):
        _check_attribute(node.attr, node.lineno, path)


def _check_attribute(name: str, line: int, path: Path) -> None:
    if name in FORBIDDEN_ATTRIBUTES or (name.startswith("__") and name not in ("__init__", "__future__")):
        raise LlmbenchError(f"{path}:{line}: reaches for '{name}'; a variant only builds a model, remove it")
