"""What the documents say is so: links lead somewhere, commands parse, examples train, the notebook runs."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from harness.board.leaderboard import read_board, standings
from harness.cli import app
from harness.core import errors
from harness.core.project import Project
from harness.core.runs import Training
from harness.core.track import Track
from harness.show.documents import json_schema
from harness.variants.recipe import apply_recipe
from harness.variants.source import VariantSource, read_variant
from models.parts import Parts
from tests.make import ROOT
from tests.sandbox import FiledContest, python, run

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TOPICS = ROOT / "docs" / "topics.md"
NOTEBOOK = ROOT / "notebooks" / "free_gpu.ipynb"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
AGENTS = ROOT / "AGENTS.md"
VARIANTS = ROOT / "docs" / "variants.md"
PAGES = [CONTRIBUTING, AGENTS, *sorted((ROOT / "docs").glob("*.md"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks in that language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def cells(kind: str) -> list[dict[str, Any]]:
    """The notebook's cells of that kind, each with its whole text under `text`."""
    found = json.loads(NOTEBOOK.read_text())["cells"]
    return [{**cell, "text": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def settings() -> dict[str, str]:
    """The notebook's variables, by its first code cell."""
    namespace: dict[str, Any] = {}
    exec(cells("code")[0]["text"], namespace)
    return {name: value for name, value in namespace.items() if isinstance(value, str)}


def fill_in(text: str, values: dict[str, str]) -> str:
    """`{NAME}` as Jupyter fills it in."""
    return re.sub(r"\{([A-Z]+)\}", lambda match: values[match[1]], text)


def commands(path: Path) -> list[str]:
    """Every `llmbench ...` of a document, in the text or in a block."""
    text = path.read_text()
    if path == NOTEBOOK:
        text = fill_in("\n".join(cell["text"] for cell in cells("code") + cells("markdown")), settings())
    text = text.replace("\\\n", " ").replace("NNNN", "0001").replace("--gain X", "--gain 0.01")
    start = "`" if path == README else r"(?<![\w/-])"  # the README's prose has llmbench for its subject
    return re.findall(start + r"llmbench ([a-z][^`\n|&;>]*)", text)


def parse(words: list[str]) -> None:
    """Parse a command line with the program's own parser, without running it. A bare name only has to exist."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    if words:
        command.make_context(command.name, words)


@pytest.mark.parametrize("path", [README, *PAGES, *FORMS, NOTEBOOK], ids=name_of)
def test_every_command_and_option_exists(path: Path) -> None:
    for command in commands(path):
        parse(shlex.split(command, comments=True))


def test_commands_are_found_and_a_wrong_option_is_noticed() -> None:
    """Guards the test above: it would also pass on documents in which it finds nothing."""
    assert "run candidate --variant my_idea" in commands(CONTRIBUTING)
    assert "run baseline --track pocket" in commands(NOTEBOOK)
    with pytest.raises(Exception, match="No such option"):
        parse(["run", "baseline", "--gpu"])


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"(?m)^#+ (.*)$", text)}
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        assert not file or (page.parent / file).exists(), target
        assert file or anchor in anchors, target
    assert set(re.findall(r"\]\[([^]]+)\]", text)) == set(re.findall(r"(?m)^\[([^]]+)\]: https://\S+$", text))


def test_each_attempt_that_the_threat_model_says_is_stopped_names_the_test_that_makes_it() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    for title in ("Code in a player", "Outputs of a model", "Pull requests and the board"):
        rows = [line for line in sections[title].splitlines() if line.startswith("| ")]
        tests = [re.search(r"\| `(tests/[\w/.]+)(?:::(\w+))?` \|$", row) for row in rows if row.count("|") == 4]
        named = [found for found in tests if found is not None]
        assert len(named) == len(tests) - 1, f"{title}: a line names no test"  # the head
        for found in named:
            assert f"def {found[2] or 'test_'}" in (ROOT / found[1]).read_text(), found[0]


def test_every_file_and_room_that_a_page_names_is_there() -> None:
    for page in (README, *PAGES):
        for path in re.findall(r"`((?:harness|models|tests|benchmarks)/[\w/.]+)", page.read_text()):
            assert path.startswith("models/variants/") or (ROOT / path).exists(), f"{page.name} names {path}"
    rooms = re.findall(r"(?m)^\| `(\w+/(?:\w+/)?)` \|(.*)$", (ROOT / "docs" / "architecture.md").read_text())
    there = {f"harness/{path.parent.name}/" for path in (ROOT / "harness").glob("*/__init__.py")}
    assert there <= {room for room, _ in rooms}
    for room, text in rooms:
        for file in re.findall(r"`(\w+\.py)`", text):
            assert (ROOT / room / file).exists(), f"docs/architecture.md places {file} into {room}"


@pytest.mark.parametrize("path", [README, *PAGES, *FORMS, NOTEBOOK], ids=name_of)
def test_arxiv_ids_have_their_form(path: Path) -> None:
    this_month = datetime.datetime.now(tz=datetime.UTC).strftime("%y%m")
    for found in re.findall(r"arXiv:([\w./-]*\w)", path.read_text()):
        number = re.fullmatch(r"(\d\d(?:0[1-9]|1[0-2]))\.(\d{4,5})", found)
        assert number, found
        assert "0704" <= number[1] <= this_month, found
        assert len(number[2]) == (5 if number[1] >= "1501" else 4), found


def read_example(text: str, folder: Path, name: str = "example") -> VariantSource:
    """An example as a user would have it: a file in models/variants/, statically checked."""
    file = folder / "models" / "variants" / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return read_variant(Project(folder), name)


@pytest.mark.parametrize(
    "text", [text for page in (README, CONTRIBUTING, VARIANTS, TOPICS) for text in blocks(page, "python")]
)
def test_every_example_passes_the_check_builds_and_trains(
    text: str, tmp_path: Path, smoke: Track, tiny: Track, train_tiny: Callable[..., Training]
) -> None:
    source = read_example(text, tmp_path / "project")
    recipe = apply_recipe({"example": source}, smoke.model, smoke.optim)
    assert train_tiny(recipe).tokens == tiny.budget.tokens


def test_format_lint_and_types_accept_every_variant_that_submit_accepts(tmp_path: Path) -> None:
    """The examples of the pages, untyped as they are, loosely spaced and with a line of 160 characters."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("harness", "models", "tests", "benchmarks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    texts = [text for page in (README, CONTRIBUTING, VARIANTS, TOPICS) for text in blocks(page, "python")]
    for number, text in enumerate(texts):
        loose = text.replace('"""\n', f'\n\n{"word " * 31}words\n"""\n', 1).replace("replace(parts", "replace( parts")
        read_example(loose, tmp_path, f"example_{number}")  # the check of `llmbench submit`
    commands = re.findall(r"(?m)^\t\$\(BIN\)/((?:ruff|mypy).*)$", (ROOT / "Makefile").read_text())
    assert len(commands) == 3
    for command in commands:
        done = python("-m", *command.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_fields_and_exit_codes_that_agents_read_are_those_of_the_program() -> None:
    text = AGENTS.read_text()
    fields_ = re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", text)))
    known = json_schema("run candidate")["properties"]
    assert len(fields_) >= 12
    assert set(fields_) <= known.keys()
    for command, keys in (("doctor", "TrackOutlook"), ("leaderboard", "Row"), ("variants", "VariantEntry")):
        named = re.search(rf"llmbench {command} --json +# (?:tracks|rows|variants)\[\]: ([\w, ]+)", text)
        assert named, command
        assert set(named[1].split(", ")) <= json_schema(command)["$defs"][keys]["properties"].keys()
    plan = json_schema("plan")
    assert "expected" in plan["properties"]
    assert {"accepted", "screen", "confirmation"} <= plan["$defs"]["Expected"]["properties"].keys()
    assert {"runs", "time_s"} <= plan["$defs"]["StageCost"]["properties"].keys()
    codes = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", text)}
    assert codes == {1} | {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_the_glossary_is_sorted_and_says_each_word_once() -> None:
    words = re.findall(r"(?m)^\| ([a-z][^|]*?) \|", (ROOT / "docs" / "glossary.md").read_text())
    assert words[0] == "word"
    assert words[1:] == sorted(set(words[1:]))


def test_the_readme_leads_to_every_page() -> None:
    text = README.read_text()
    assert [name_of(page) for page in PAGES if f"]({name_of(page)})" not in text] == []


def topic_rows() -> dict[str, list[str]]:
    """The table of docs/topics.md: number -> its other cells."""
    rows = re.findall(r"(?m)^\| (\d+) \| (.*) \|$", TOPICS.read_text())
    return {number: rest.split(" | ") for number, rest in rows}


def test_every_topic_has_a_row_what_is_known_and_a_source() -> None:
    headings = re.split(r"(?m)^### (\d+)\. (.*)$", TOPICS.read_text())[1:]
    topics = {number: (title, text) for number, title, text in zip(*(headings[i::3] for i in range(3)), strict=True)}
    assert list(topics) == [str(number + 1) for number in range(len(topics))]
    assert {number: title for number, (title, _) in topics.items()} == {n: row[0] for n, row in topic_rows().items()}
    for number, (_, text) in topics.items():
        assert "- **Known**: " in text, number
        source = text.partition("- **Source**: ")[2].partition("\n- ")[0]
        assert re.search(r"arXiv:\d|\]\[\w+\]", source), number


def test_topics_name_components_that_a_variant_can_swap() -> None:
    components = {field.name for field in fields(Parts)}
    for _, names, *_ in topic_rows().values():
        assert set(re.findall(r"`(\w+)`", names)) <= components, names


def test_the_topic_form_asks_for_what_a_topic_needs() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "topic.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    fields_ = {element["id"]: element for element in form["body"] if element["type"] != "markdown"}
    assert {"idea", "source", "lane", "gain", "cost", "track"} <= set(fields_)
    assert len(fields_) == len(form["body"]) - 1  # ids are unique
    for element in form["body"]:
        assert element["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
        assert "value" in element["attributes"] or "label" in element["attributes"]


def test_the_notebook_is_clean_and_explains_each_step() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(kinds)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))


def run_cell(text: str, values: dict[str, str], folder: Path, environment: dict[str, str]) -> str:
    """What Jupyter would do with a cell of shell lines or of %%writefile; what it printed."""
    first, _, rest = fill_in(text, values).partition("\n")
    if first.startswith("%%writefile "):
        (folder / first.split()[1]).write_text(rest)
        return ""
    script = "set -e\n" + "\n".join(line.removeprefix("!") for line in (first, *rest.splitlines()))
    done = run("bash", "-c", script, cwd=folder, **environment)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_notebook_runs_from_the_baseline_to_a_patch(filed: FiledContest, tmp_path: Path) -> None:
    """On the CPU, on smoke, in a copy of this checkout: everything but cloning and installing."""
    folder = filed.sandbox.copy(tmp_path / "llmbench").root
    for file in ("README.md", ".gitignore"):
        shutil.copy(ROOT / file, folder / file)
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "llmbench"
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m harness.cli "$@"\n')
    shim.chmod(0o755)
    python = Path(sys.executable).parent
    environment = {"NO_COLOR": "1", "PATH": f"{shim.parent}:{python}:{os.environ['PATH']}"}
    values = {**settings(), "TRACK": "smoke"}
    git = "git init -q . && git add . && git -c user.name=a -c user.email=a@example.org commit -q -m clone"
    run_cell(git, values, folder, environment)

    printed = ""
    for cell in cells("code")[1:]:
        if "network" not in cell["metadata"].get("tags", []):
            verdict = cell["id"] == "candidate"  # exit code 3 is a verdict, and Jupyter shows it and goes on
            text = cell["text"] + (" || test $? -eq 3" if verdict else "")
            printed += run_cell(text, values, folder, environment)
    assert re.search(r"^(ACCEPTED|REJECTED): ", printed, re.MULTILINE)
    assert re.search(r"^\| mean of \d pairs? \| Without \(", printed, re.MULTILINE)
    patch = (folder / f"{values['VARIANT']}.patch").read_text()
    assert "models/variants/half_rotary.py" in patch
    assert "submissions/" in patch
    assert "runs/smoke/" not in patch


def test_the_topics_name_what_was_judged_here_and_what_became_a_record(project: Project) -> None:
    judged = {name: {one.kind for one in found} for name, found in standings(project, read_board(project)).items()}
    named = re.findall(r"\*\*\w+\*\*|\b[a-z]\w+", " ".join(row[-1] for row in topic_rows().values()))
    for word in named:
        name = word.strip("*")
        assert ("record" in judged[name]) == word.startswith("**"), name
    assert len(named) > 25
