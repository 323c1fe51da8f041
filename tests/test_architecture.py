"""The shape of the code: the referee knows no contestant, rooms are small and say what they hold, torch loads late.

That imports point one way is a contract in pyproject.toml, which `make test` checks with import-linter.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.make import OWN_VARIANTS, ROOT
from tests.sandbox import python

# What trains, and so needs torch at once: it runs as a worker of its own.
TRAINS = {f"harness.player.{name}" for name in ("compiler", "play", "train")}
JUDGE = ["judge", "docs/examples/modded-nanogpt.json"]
JUDGE_EVENTS = ["judge", "docs/examples/tensorboard", "--record-arm", "base", "--tag", "val/loss"]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 330, 80
CODE = [*sorted((ROOT / "harness").rglob("*.py")), *sorted((ROOT / "models").glob("*.py"))]
SCRIPTS = {"benchmarks", *(path.stem for path in (ROOT / "benchmarks").glob("*.py"))}


def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield ast.unparse(node.args[0]).strip("'")


def test_harness_names_no_variant() -> None:
    """None of the project's own: a contributor may call one by a word that stands here, such as `loss`."""
    for path in (ROOT / "harness").rglob("*.py"):
        code = [node for node in nodes_of(path) if isinstance(node, ast.Name | ast.Constant)]
        words = {str(getattr(node, "id", getattr(node, "value", None))) for node in code}
        assert not words & {*OWN_VARIANTS}, f"{path.name} names {words & {*OWN_VARIANTS}}"
        assert not [name for name in imported(path) if name.startswith("models.variants")], path.name


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in CODE}
    assert not {file: length for file, length in lengths.items() if length > MAX_FILE_LINES}


def test_no_function_is_longer_than_a_reader_takes_in() -> None:
    functions = [(path, node) for path in CODE for node in nodes_of(path) if isinstance(node, ast.FunctionDef)]
    lengths = {f"{path.relative_to(ROOT)}:{f.name}": (f.end_lineno or 0) - f.lineno + 1 for path, f in functions}
    assert not {function: length for function, length in lengths.items() if length > MAX_FUNCTION_LINES}


def test_no_test_imports_another_test_or_a_benchmark() -> None:
    """What tests share is in tests/make.py, or in a helper beside it; benchmarks may import from there."""
    for path in (ROOT / "tests").rglob("*.py"):
        for name in imported(path):
            room, *parts = name.split(".")
            assert room not in SCRIPTS, f"{path.name} imports {name}"
            assert not any(part.startswith("test_") for part in parts), f"{path.name} imports {name}"


@pytest.mark.parametrize("room", [path.parent for path in sorted((ROOT / "harness").rglob("__init__.py"))])
def test_a_room_is_small_and_says_what_it_holds(room: Path) -> None:
    assert len(list(room.glob("[!_]*.py"))) <= 11, "split it: a reader should see at a glance what is here"
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    assert docstring, f"{room.name}/__init__.py says nothing"


def test_what_does_not_train_loads_no_torch() -> None:
    files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "harness").rglob("*.py"))
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files} - TRAINS - {"harness.cli.__main__"}
    done = python("-c", f"import sys\nfor name in {modules}: __import__(name)\nprint('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["leaderboard"], ["verify"], ["history"], ["variants"], ["tracks"], JUDGE, JUDGE_EVENTS]
)
def test_light_commands_load_no_heavy_package(arguments: list[str]) -> None:
    """Also a proof that they answer fast: loading torch alone takes seconds."""
    heavy = ["torch", "datasets", "matplotlib"] + (["pandas", "scipy", "pydantic"] if arguments == ["--help"] else [])
    done = python(
        "-c",
        f"import sys; sys.argv = ['llmbench', *{arguments!r}]\n"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])",
    )
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout + done.stderr
