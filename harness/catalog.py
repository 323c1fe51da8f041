"""Variants by name, recipes built into Parts, source digests, and cost in statements.

A variant's file is checked on its syntax tree before it is imported: what it imports, and that it
has a docstring and an `apply`. The harness names no variant; it finds them in `models/variants/`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import LlmbenchError, did_you_mean
from harness.project import Project, sha256

if TYPE_CHECKING:
    from torch import nn

    from models.parts import ModelConfig, OptimConfig, Parts

BASE = "base"
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


def parse_recipe(recipe: str) -> tuple[str, ...]:
    """`base+first+second` -> ("first", "second"). Raises LlmbenchError where it has another form."""
    base, *variants = recipe.split("+")
    if base != BASE or not all(variants):
        raise LlmbenchError(f"recipe '{recipe}' must read `{BASE}` or `{BASE}+variant+variant`")
    if len(set(variants)) != len(variants):
        raise LlmbenchError(f"recipe '{recipe}' names a variant twice; leave one out")
    return tuple(variants)


def format_recipe(variants: tuple[str, ...]) -> str:
    """("first", "second") -> `base+first+second`."""
    return "+".join((BASE, *variants))


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


def recipe_sources(project: Project, recipe: str) -> dict[str, VariantSource]:
    """The checked sources of a recipe's variants, in order."""
    return {name: read_variant(project, name) for name in parse_recipe(recipe)}


def recipe_cost(sources: dict[str, VariantSource]) -> int:
    """Statements of all variants of a recipe together."""
    return sum(source.cost for source in sources.values())


def _import_apply(source: VariantSource) -> Callable[[Parts], Parts]:
    """Import the very text that was checked and digested, and return its `apply`."""
    module_name = f"models.variants.{source.name}"
    spec = importlib.util.spec_from_loader(module_name, loader=None, origin=str(source.path))
    if spec is None:
        raise AssertionError("a spec without a loader can always be made")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and typing look their module up by name
    exec(compile(source.text, str(source.path), "exec"), module.__dict__)
    apply: Callable[[Parts], Parts] = module.__dict__["apply"]
    return apply


class _Traced:
    """A factory that a variant put in, which remembers whether the model's construction came by."""

    def __init__(self, factory: Callable[..., Any], variant: str, component: str) -> None:
        self.factory, self.variant, self.component, self.used = factory, variant, component, False

    def __call__(self, *arguments: Any) -> Any:
        self.used = True
        return self.factory(*arguments)


@dataclass(frozen=True)
class Recipe:
    """A base and its variants, applied: what can be built into a model."""

    parts: Parts
    traces: tuple[_Traced, ...]

    def build(self) -> nn.Module:
        """The model, its parameters not yet drawn. Raises LlmbenchError where two variants conflict."""
        from models.gpt import GPT

        model = GPT(self.parts)
        for trace in self.traces:
            if not trace.used and trace.component in MODEL_COMPONENTS:
                self._raise_conflict(trace)
        return model

    def _raise_conflict(self, unused: _Traced) -> None:
        later = self.traces[self.traces.index(unused) + 1 :]
        rivals = [trace for trace in later if trace.component == unused.component]
        if rivals:
            raise LlmbenchError(
                f"variants '{unused.variant}' and '{rivals[-1].variant}' conflict: both replace {unused.component}; "
                f"leave one out, or let '{rivals[-1].variant}' wrap `parts.{unused.component}`"
            )
        raise LlmbenchError(
            f"variant '{unused.variant}' changes {unused.component}, which nothing in this recipe uses; "
            f"leave it out, or use it on a track that has it"
        )


MODEL_COMPONENTS = ("embedding", "query_key", "attention", "feed_forward", "block", "head")


def apply_recipe(sources: dict[str, VariantSource], model: ModelConfig, optim: OptimConfig) -> Recipe:
    """Apply a recipe's variants in order to the base.

    Raises LlmbenchError where a variant's own code fails or returns something other than Parts.
    """
    from models.gpt import base
    from models.parts import Parts

    parts, traces = base(model, optim), []
    for source in sources.values():
        try:
            changed = _import_apply(source)(parts)
        except Exception as error:  # a variant's code may raise anything; all of it is the variant's error
            raise LlmbenchError(f"variant '{source.name}' failed: {type(error).__name__}: {error}") from error
        if not isinstance(changed, Parts):
            raise LlmbenchError(
                f"variant '{source.name}': apply returned {type(changed).__name__}, not Parts; "
                f"end it with `return replace(parts, ...)`"
            )
        if changed.model.vocab_size != model.vocab_size:
            raise LlmbenchError(f"variant '{source.name}' changes vocab_size, which belongs to the track; leave it")
        for field in fields(Parts):
            factory = getattr(changed, field.name)
            if callable(factory) and factory is not getattr(parts, field.name):
                trace = _Traced(factory, source.name, field.name)
                traces.append(trace)
                changed = replace(changed, **{field.name: trace})  # type: ignore[arg-type]
        parts = changed
    return Recipe(parts, tuple(traces))
