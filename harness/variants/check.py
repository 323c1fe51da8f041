"""Checks a variant's source before any of it runs, so that a reviewer can trust what the file shows.

The text must not contain invisible or look-alike characters. It must say where its idea comes from, import only the
modules in MODULES, and be too small to contain much of the training text. A run is safe without this check, because the
process that runs a variant is confined and has no data that the variant must not see (docs/threat-model.md).
"""

from __future__ import annotations

import ast
import io
import math
import tokenize
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.variants.canonical import PARSE_ERRORS

# The modules that a variant may import; submodules of torch are allowed too. A run's process has no access to files,
# processes or the network in any case, but a reviewer should not have to wonder why a module for them is imported.
MODULES = frozenset(
    {"__future__", "abc", "collections", "collections.abc", "contextlib", "copy", "dataclasses", "enum"}
)
MODULES |= {"functools", "itertools", "math", "operator", "torch", "typing"}
MODULES |= {"models.attention", "models.gpt", "models.kernels"}
MODULES |= {"models.moe", "models.muon", "models.optim", "models.parts", "models.seams"}
# Functions that run text or look up computed names, so that a reader cannot see what runs.
HIDING_CALLS = frozenset({"breakpoint", "compile", "eval", "globals", "locals", "open", "vars"})
BY_NAME = frozenset({"delattr", "getattr", "setattr"})  # allowed if the attribute's name is a string in the code
# Attributes that give access to the machine (`torch.os`) or to text that is not counted (`__doc__`).
HIDING_NAMES = frozenset({"__builtins__", "__code__", "__doc__", "__getattribute__", "__globals__", "__import__"})
HIDING_NAMES |= {"attrgetter", "builtins", "exec", "importlib", "methodcaller", "os", "subprocess", "sys"}
# Limits of one file, which holds one idea. They are at least twice the largest values in the committed variants and
# tests/honest: 3 kB, 25 numbers, 90 bytes of strings, 21 entries, 480 letters of names, strings and digits together
# (models/kernels.py: 968). 700 tokens of a text, worth 0.046 nats on `pocket`, take 790 bytes or 1,200 letters.
MAX_FILE_BYTES = 16 * 1024
MAX_CONSTANTS = 128
MAX_DIGITS = 10
MAX_STRING_BYTES = 400
MAX_NAME_LETTERS = 40
MAX_LETTERS = 1150
"""Largest allowed sum of the letters of distinct names, the letters of strings and the digits of numbers."""
MAX_ENTRIES = 64
"""Largest allowed number of entries in one collection, or of arguments in one call."""
MAX_ALL_ENTRIES = 160
"""Largest allowed number of entries of all collections together."""
MAX_DEPTH = 100
"""Largest allowed depth of the syntax tree. Python's own limit differs from version to version."""
UNHEARD = (tokenize.COMMENT, tokenize.NL)
# Unicode categories of invisible characters; the Braille blank is a symbol, so it is listed by itself.
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def check_source(text: str, path: Path) -> None:
    """Check a variant's source.

    Raises LlmbenchError for the first problem; the message names the line and says what to do.
    """
    size = len(text.encode(errors="replace"))
    if size > MAX_FILE_BYTES:
        raise LlmbenchError(f"{path}: {size:,} bytes, but a variant may have at most {MAX_FILE_BYTES:,}; shorten it")
    _check_letters(text, path)
    tree = _parse(text, path)
    if not (ast.get_docstring(tree) or "").partition("\n")[0].strip():
        raise LlmbenchError(f"{path}: add a docstring whose first line states the change and its source")
    problems = [(node.lineno, problem) for node in ast.walk(tree) for problem in _problems(node)]  # type: ignore[attr-defined]
    if problems:
        line, problem = min(problems)
        raise LlmbenchError(f"{path}:{line}: {problem}")
    _check_totals(tree, path)
    if not any(isinstance(node, ast.FunctionDef) and node.name == "apply" for node in tree.body):
        raise LlmbenchError(f"{path}: define `def apply(parts: Parts) -> Parts` at the top level")


def _check_letters(text: str, path: Path) -> None:
    """Refuse invisible characters (CVE-2021-42574) and, outside comments, letters that are not ASCII.

    With such characters, the code that a reviewer sees could differ from the code that Python runs.
    """
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        for letter in line:
            unseen = letter != "\t" and not letter.isprintable()
            if unseen or letter in BLANK or unicodedata.category(letter) in ("Mn", "Me"):
                raise LlmbenchError(f"{path}:{number}: invisible character U+{ord(letter):04X}; remove it")
    if text.isascii():
        return
    comments: dict[int, int] = {}  # line -> where its comment starts
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0]] = token.start[1]
    except (tokenize.TokenError, SyntaxError) as error:
        raise LlmbenchError(f"{path}: syntax error: {error}") from error
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        for letter in line[: comments.get(number)]:
            if not letter.isascii():
                raise LlmbenchError(
                    f"{path}:{number}: the character U+{ord(letter):04X} outside a comment can be mistaken for another "
                    f"letter; use ASCII, or put it into a comment"
                )


def _parse(text: str, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # refuses code that later Pythons will refuse, such as the escape \d
            tree = ast.parse(text)
            compile(
                text, str(path), "exec", dont_inherit=True
            )  # refuses code that the grammar allows but the language does not
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise LlmbenchError(f"{path}{line}: syntax error: {error.msg}") from error
    except PARSE_ERRORS as error:
        raise LlmbenchError(f"{path}: syntax error: {error or 'nested too deeply'}") from error
    nodes: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node)]
    if nodes:
        raise LlmbenchError(
            f"{path}: an expression or block is nested more than {MAX_DEPTH} levels deep; split it into several "
            f"statements"
        )
    return tree


def _problems(node: ast.AST) -> Iterator[str]:
    """Yields a text for each problem of one node. An error message is file, line and this text."""
    match node:
        case ast.Import():
            yield from (_not_listed(alias.name) for alias in node.names if not _listed(alias.name))
        case ast.ImportFrom():
            module = "." * node.level + (node.module or "")
            if not _listed(module) and not (
                module == "models" and all(_listed(f"models.{a.name}") for a in node.names)
            ):
                yield _not_listed(module)
            elif any(alias.name == "*" for alias in node.names):
                yield f"imports everything from '{module}', which hides where names come from; import each name"
        case ast.Name() if node.id in HIDING_CALLS:
            yield f"uses '{node.id}', which runs code that is not in this file; write the code out"
        case ast.Call(func=ast.Name(id=name)) if name in BY_NAME and not _is_plain(node.args[1:2]):
            yield f"calls '{name}' with a computed or forbidden name; write the attribute as `object.name`"
        case ast.Constant() if isinstance(node.value, int | float | complex) and _digits(node.value) > MAX_DIGITS:
            yield f"a number has more than {MAX_DIGITS} digits; compute it in the code"
    if (count := len(_entries(node))) > MAX_ENTRIES:
        yield f"{count} entries in one collection or call, but at most {MAX_ENTRIES} are allowed; compute them in code"
    for name in _names(node):
        if name in HIDING_NAMES:
            yield f"uses '{name}', which gives access to code that is not in this file; remove it"
        elif len(name) > MAX_NAME_LETTERS:
            yield f"a name has {len(name)} letters, but at most {MAX_NAME_LETTERS} are allowed; shorten it"


def _listed(module: str) -> bool:
    return module in MODULES or module.startswith("torch.")


def _not_listed(module: str) -> str:
    return f"imports '{module}'; a variant may import only {', '.join(sorted(MODULES - {'__future__'}))}"


def _is_plain(names: list[ast.expr]) -> bool:
    return all(isinstance(name, ast.Constant) and name.value not in HIDING_NAMES for name in names)


def _entries(node: ast.AST) -> list[ast.AST]:
    """The entries of a collection or the arguments of a call; empty for other nodes."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict | ast.Call):
        return [
            *getattr(node, "elts", getattr(node, "values", getattr(node, "args", ()))),
            *getattr(node, "keywords", ()),
        ]
    return []


def _digits(number: complex) -> int:
    """Number of significant digits in the number's `repr`."""
    mantissa = repr(number).lower().partition("e")[0]
    return len("".join(filter(str.isdigit, mantissa)).strip("0"))


def _names(node: ast.AST) -> Iterator[str]:
    """Yields the identifiers in this node, without those in its child nodes."""
    for field in ("id", "attr", "arg", "name", "asname", "rest", "module"):
        if isinstance(name := getattr(node, field, None), str):
            yield name
    yield from [
        *getattr(node, "kwd_attrs", ()),
        *(getattr(node, "names", ()) if isinstance(node, ast.Global | ast.Nonlocal) else ()),
    ]


def _check_totals(tree: ast.Module, path: Path) -> None:
    """Raises LlmbenchError if the file has so many numbers, strings or names that they could be weights or a text."""
    dropped = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings among them
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in dropped]
    strings = [value for value in constants if isinstance(value, str | bytes)]
    numbers = [value for value in constants if isinstance(value, int | float | complex)]
    letters = [*strings, *{name for node in ast.walk(tree) for name in _names(node)}]
    entries = sum(len(_entries(node)) for node in ast.walk(tree) if not isinstance(node, ast.Call))
    for size, what, limit in (
        (len(constants) - len(strings), "constants", MAX_CONSTANTS),
        (sum(map(len, strings)), "bytes of strings", MAX_STRING_BYTES),
        (sum(map(len, letters)) + sum(map(_digits, numbers)), "letters of names, strings and numbers", MAX_LETTERS),
        (entries, "entries of collections", MAX_ALL_ENTRIES),
    ):
        if size > limit:
            raise LlmbenchError(
                f"{path}: {size:,} {what}, but a variant may have at most {limit:,}; compute some of them in the code"
            )


def knowledge_nats(text: str) -> float:
    """Upper bound, in nats, on how far a variant could lower the total loss on val by storing val in its source.

    `text` is the source. A file of n bytes can distinguish at most 256 ** n texts, so it can lower the total loss by at
    most n log 256 nats. Here n is the code's size, raw or compressed, whichever is smaller, without comments, docstring
    and layout. Assumption: the code does not read its own file.
    """
    try:
        body = ast.parse(text).body
        tokens = [*tokenize.generate_tokens(io.StringIO(text).readline)]
    except (*PARSE_ERRORS, tokenize.TokenError) as error:
        raise LlmbenchError(
            f"the length of a variant's code cannot be measured ({error}); correct the variant's file"
        ) from error
    docstring = [(one.lineno, one.col_offset) for one in body[:1] if isinstance(one, ast.Expr)]
    words = [token.string for token in tokens if token.type not in UNHEARD and token.start not in docstring]
    code = " ".join(words).encode(errors="replace")
    return min(len(code), len(zlib.compress(code, 9))) * math.log(256)
