"""Pinning: four keys of [data] are written, and not a character of the file besides."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness.core.dataspec import PINS
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import Track, load_track
from harness.data.pin import pin_track, pinned_text
from tests.make import ROOT

VALUES = dict(zip(PINS, ('"new"', "{ a = 1 }", "{ a = 2 }", "{ a = 3 }"), strict=True))
SMOKE = (ROOT / "tracks" / "smoke.toml").read_text()


def without_pins(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if line.split(" = ")[0] not in PINS)


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\n\n[data]  # where from\nsource = 1  # one\n\n# about the model\n[model]\nb = 2\n",
        "[data]\nfiles = [\n    '[x]',  # odd\n    'y',\n]\n\n[data.tokenizer]\ntrain = 1\n",
        "[data]\nsource = 1",
    ],
)
def test_pins_go_behind_the_last_key_of_data(text: str) -> None:
    pinned = pinned_text(text, VALUES, {})
    assert tomllib.loads(pinned)["data"] == tomllib.loads(text)["data"] | {
        "tokenizer_sha256": "new",
        "train": {"a": 1},
        "dev": {"a": 2},
        "val": {"a": 3},
    }
    assert "\n".join(line for line in pinned.splitlines() if line not in pin_lines()) == text.rstrip("\n")


def pin_lines() -> list[str]:
    return [f"{key} = {value}" for key, value in VALUES.items()]


def test_older_pins_are_replaced_where_they_stand() -> None:
    text = "[data]\nval = { a = 9 }  # the last one\nsource = 1\n\n[model]\nval = 2\n"
    assert pinned_text(text, VALUES, {}).splitlines() == [
        "[data]",
        "val = { a = 3 }  # the last one",
        "source = 1",
        *pin_lines()[:3],
        "",
        "[model]",
        "val = 2",
    ]


def test_a_branch_becomes_the_commit_that_it_stands_for_and_nothing_else_does() -> None:
    commits = {"revision": "aaa", "tokenizer.revision": "bbb"}
    inline = """revision = "main"
[data]
revision = 'main'  # not revision = "main" but a commit
tokenizer = { source = "hub", revision = "main" }
[model]
revision = "main"
"""
    table = "[data]\nrevision = 'main'\n\n[data.tokenizer]\nrevision = 'main'\n"
    assert pinned_text(inline, {}, commits).splitlines() == [
        'revision = "main"',
        "[data]",
        'revision = "aaa"  # not revision = "main" but a commit',
        'tokenizer = { source = "hub", revision = "bbb" }',
        "[model]",
        'revision = "main"',
    ]
    assert tomllib.loads(pinned_text(table, {}, commits))["data"] == {
        "revision": "aaa",
        "tokenizer": {"revision": "bbb"},
    }
    assert pinned_text(inline, {}, {}) == inline


@pytest.fixture
def own_project(tmp_path: Path) -> Project:
    (tmp_path / "tracks").mkdir()
    return Project(tmp_path)


def test_a_track_gets_the_pins_back_that_were_taken_out(own_project: Project, smoke: Track) -> None:
    path = own_project.tracks / "smoke.toml"
    path.write_text(without_pins(SMOKE))
    bare = load_track(own_project, "smoke")
    assert not bare.data.pinned
    pin_track(own_project, bare)
    assert sorted(path.read_text().splitlines()) == sorted(SMOKE.splitlines())
    assert load_track(own_project, "smoke") == smoke


def test_other_pins_are_replaced_only_when_asked_to(own_project: Project, smoke: Track) -> None:
    path = own_project.tracks / "smoke.toml"
    path.write_text(SMOKE.replace("documents = 24", "documents = 25"))
    wrong = load_track(own_project, "smoke")
    with pytest.raises(LlmbenchError, match=r"states that data\.val"):
        pin_track(own_project, wrong)
    assert "documents = 25" in path.read_text()
    pin_track(own_project, wrong, force=True)
    assert path.read_text() == SMOKE


@pytest.mark.parametrize(
    "text",
    [
        "[data]\ntokenizer.revision = 'main'\nrevision = 'main'\n# c\n\n[model]\nb = 1\n",
        "data.revision = 'main'\ny = 2\ndata.tokenizer.revision = 'main'\n[model]\nb = 1\n",
        "data = { revision = 'main', tokenizer = { revision = 'main' } }\n[model]\nb = 1\n",
        "[data.tokenizer]\nrevision = 'main'\n[model]\nb = 1\n[data]\nrevision = 'main'\n",
        "[data]\nrevision = 'main'\ntrain.a = 9\n[model]\nb = 1\n[data.tokenizer]\nrevision = 'main'\n",
    ],
)
def test_every_layout_of_a_file_can_be_pinned(text: str) -> None:
    expected = tomllib.loads(text)
    expected["data"] |= tomllib.loads("\n".join(pin_lines())) | {"revision": "aaa", "tokenizer": {"revision": "bbb"}}
    found = pinned_text(text, VALUES, {"revision": "aaa", "tokenizer.revision": "bbb"})
    assert tomllib.loads(found) == expected
