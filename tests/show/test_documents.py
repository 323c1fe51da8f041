"""What `--json` prints keeps the schema that `llmbench schema` prints, for every command that there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import typer

from harness.cli import app
from harness.core.project import Project
from harness.show.documents import DOCUMENTS, json_schema
from tests.sandbox import HERE, FiledContest, Sandbox

# What they make is validated in tests of their own: of ablations, campaigns, challenges, claims, comparisons.
ELSEWHERE = {"ablate", "campaign", "challenge", "compare", "init", "ladder", "verify"}
READING: dict[str, tuple[str, ...]] = {
    "explain": ("not_shown",),
    "history": (),
    "variants": (),
    "tracks": (),
    "data info": (),
    "leaderboard": (),
    "judge": ("docs/examples/modded-nanogpt.json",),
    "noise": ("--stored", "--track", "smoke"),
    "plan": ("--gain", "0.01", "--track", "smoke"),
    "doctor": (),
    "schema": (),
}
"""Commands that change nothing, tried on this checkout."""


def options_of(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """(command, its options) for every command of the program."""
    if hasattr(command, "commands"):
        for one, inner in command.commands.items():
            yield from options_of(inner, f"{name} {one}".strip())
    else:
        yield name, {option for parameter in command.params for option in parameter.opts}


def test_every_command_takes_json_and_has_a_schema() -> None:
    options = dict(options_of(typer.main.get_command(app)))
    assert options.keys() == DOCUMENTS.keys()
    assert [name for name, known in options.items() if "--json" not in known] == []


@pytest.mark.parametrize("command", READING)
def test_what_reads_prints_a_document_of_its_schema(command: str) -> None:
    assert HERE.json(*command.split(), *READING[command])["schema_version"] == 1


def test_what_makes_a_claim_prints_documents_of_its_schema(filed: FiledContest, project: Project) -> None:
    """Also the rest: with READING and ELSEWHERE these are all commands."""
    own = filed.without_the_record(filed.sandbox.root.parent / "documents")
    smoke = ("--track", "smoke")
    candidate = own.json("run", "candidate", "--variant", "token_smear", *smoke)
    assert (candidate["record"], candidate["attempt"], candidate["failed"]) == ("base", 1, [])
    submitted = own.json("submit", *smoke)
    assert submitted["folder"] == f"submissions/0002-{submitted['submission']['name']}"
    assert submitted["markdown"] == (own.root / submitted["folder"] / "README.md").read_text()
    assert own.json("verify")["ok"] is True
    prepared = own.json("data", "prepare", *smoke)
    assert own.json("data", "info", *smoke)["cache"] == prepared["cache"]
    assert own.json("data", "pin", *smoke)["splits"].keys() == {"train", "dev", "val"}
    entry = next(one for one in own.json("variants")["variants"] if one["name"] == "token_smear")
    assert [(one["number"], one["holds"]) for one in entry["standings"]] == [(2, True)]
    holders = {one["name"]: one["holder"] for one in own.json("tracks")["tracks"]}
    assert holders.pop("smoke") == 2
    assert set(holders.values()) == {None}
    trained = own.json("run", "baseline", *smoke, "--pairs", "1")
    assert trained["runs"][0]["status"] == "finished"
    made = {"run candidate", "submit", "data prepare", "data pin", "run baseline"}
    assert made | READING.keys() | ELSEWHERE == DOCUMENTS.keys()


def test_a_broken_variant_does_not_hide_the_others(sandbox: Sandbox) -> None:
    path = sandbox.root / "models" / "variants" / "broken.py"
    path.write_text('"""Opens a file."""\nopen("x")\n')
    try:
        found = sandbox.json("variants")
        shown = sandbox("variants").stdout
    finally:
        path.unlink()
    assert "broken" in found["broken"]
    assert "token_smear" in {one["name"] for one in found["variants"]}
    assert "broken is refused: " in shown


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_schema_is_valid_and_refuses_what_is_no_document(command: str) -> None:
    schema = json_schema(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "schema_version" in schema["required"]
    for wrong in ({}, {"schema_version": 2}, {"schema_version": 1, "surprise": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_a_schema_explains_its_fields_and_the_nearest_name_is_offered(sandbox: Sandbox) -> None:
    schema = json.loads(sandbox("schema", "run", "candidate").stdout)
    assert "One-sided" in schema["properties"]["p_value"]["description"]
    assert "did you mean 'run candidate'?" in sandbox.refuses("schema", "run", "candidat")
