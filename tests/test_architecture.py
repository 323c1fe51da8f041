"""The shape of the code: imports point one way, the referee knows no contestant, torch loads late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Reading order: a module imports only what stands above it.
ORDER = [
    "errors",
    "terminal",
    "project",
    "repository",
    "dataspec",
    "settings",
    "track",
    "device",
    "ranks",
    "confine",
    "hub",
    "corpus",
    "tokens",
    "arrays",
    "data",
    "prepare",
    "pin",
    "allowed",
    "lexical",
    "syntax",
    "sources",
    "catalog",
    "results",
    "job",
    "serve",
    "devset",
    "compiler",
    "checkpoint",
    "train",
    "rehearse",
    "evaluate",
    "provenance",
    "cores",
    "launch",
    "zygote",
    "executor",
    "bench",
    "once",
    "node",
    "cluster",
    "stats",
    "looks",
    "reasons",
    "comparability",
    "verdict",
    "pairing",
    "outcome",
    "judge",
    "submission",
    "rows",
    "leaderboard",
    "entry",
    "contest",
    "rerun",
    "challenge",
    "ledger",
    "noise",
    "standings",
    "doctor",
    "flags",
    "tables",
    "report",
    "describe",
    "plots",
    "site.content",
    "site",
    "live",
    "trackers",
    "trackers",
    "evidence",
    "verify",
    "changes",
    "submit",
    "pull_request",
    "documents",
    "cli.options",
    "cli.claim",
    "cli.again",
    "cli.board",
    "cli.study",
    "cli.catalogue",
    "cli",
    "cli.__main__",
]
# Everything but what trains: it runs as a worker of its own.
WITHOUT_TORCH = [name for name in ORDER if name not in ("devset", "compiler", "checkpoint", "train", "rehearse")]


def path_of(name: str) -> Path:
    """The file of a module of harness: a package's is its __init__.py."""
    stem = ROOT / "harness" / name.replace(".", "/")
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


def imported(path: Path, *, only_at_top: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if only_at_top else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_harness_module_has_its_place() -> None:
    files = set((ROOT / "harness").rglob("*.py"))
    assert files == {path_of(name) for name in ORDER} | {ROOT / "harness" / "__init__.py"}


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_up(name: str) -> None:
    above = {f"harness.{other}" for other in ORDER[: ORDER.index(name)]}
    own = {module for module in imported(path_of(name)) if module.startswith("harness")}
    assert own <= above, f"{name} imports {sorted(own - above)}, which stand below it"


def test_models_never_import_harness() -> None:
    for path in (ROOT / "models").rglob("*.py"):
        assert not any(module.startswith("harness") for module in imported(path)), path


def test_harness_names_no_variant() -> None:
    variants = [path.stem for path in (ROOT / "models" / "variants").glob("*.py") if path.stem != "__init__"]
    assert variants
    for path in (ROOT / "harness").rglob("*.py"):
        code = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name | ast.Constant)]
        words = {str(getattr(node, "id", getattr(node, "value", None))) for node in code}
        assert not words & set(variants), f"{path.name} names {words & set(variants)}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_torch_is_imported_late(name: str) -> None:
    assert not {m for m in imported(path_of(name), only_at_top=True) if m.split(".")[0] == "torch"}


@pytest.mark.parametrize("arguments", [["--help"], ["leaderboard"], ["verify"], ["variants"], ["tracks"]])
def test_light_commands_load_no_heavy_package(arguments: list[str]) -> None:
    """Also a proof that they answer fast: loading torch alone takes seconds."""
    heavy = ["torch", "datasets", "matplotlib"] + (["pandas", "scipy", "pydantic"] if arguments == ["--help"] else [])
    code = (
        f"import sys; sys.argv = ['llmbench', *{arguments!r}]\n"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout[-500:] + done.stderr[-500:]
