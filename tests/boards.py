"""Boards made up from the committed one, for what only reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from harness.core.project import Project
from tests.conftest import ROOT

OPENING, RECORD, NEGATIVE, CHALLENGE = FIRST = sorted((ROOT / "submissions").glob("000[1-4]-*"))
MOST_LOSS = 0.004  # nats a token that one made-up record gains over the one before


def copy_board(root: Path) -> Project:
    """The committed tracks and the first four submissions: an opening, a record, a negative result, a challenge."""
    for folder in (ROOT / "tracks", *FIRST):
        shutil.copytree(folder, root / folder.relative_to(ROOT))
    return Project(root)


def edit(path: Path, **fields: Any) -> dict[str, Any]:
    """Replace keys of a JSON file; its new content."""
    content: dict[str, Any] = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(content))
    return content


def make_board(root: Path, count: int) -> Project:
    """A board of `count` submissions: one in eight a record, the others negative, all of eight pairs, over months.

    Losses and curves are those of one committed contest, shifted; so verdicts come from real scatter.
    """
    project = copy_board(root)
    shutil.rmtree(project.submissions / CHALLENGE.name)
    claim = json.loads((RECORD / "submission.json").read_text())
    recipe, sources, won = claim["candidate"]["recipe"], claim["candidate"]["sources"], 0
    for number in range(4, count + 1):
        idea, is_record = f"idea_{number}", number % 8 == 0
        folder = project.submissions / f"{number:04d}-pocket-{idea}"
        shutil.copytree(NEGATIVE, folder)
        own = folder / "sources" / f"{idea}.py"
        (folder / "sources" / "qk_norm.py").rename(own)
        own.write_text(own.read_text() + f"x = {number}\n" * (7 * number % 30))
        for variant in sources:
            shutil.copy(NEGATIVE / "sources" / "token_smear.py", folder / "sources" / f"{variant}.py")
        claim = json.loads((folder / "submission.json").read_text())
        record = claim["record"] | {"recipe": recipe, "sources": sources}
        ours = {**sources, idea: f"{number:064x}"}
        candidate = claim["candidate"] | {"recipe": f"{recipe}+{idea}", "sources": ours, "statements": 20 + number}
        edit(
            folder / "submission.json",
            number=number,
            name=f"pocket-{idea}",
            kind="record" if is_record else "negative",
            date=f"2027-{1 + number // 5:02d}-{1 + number % 5 * 6:02d}",
            record=record,
            candidate=candidate,
        )
        for path in (folder / "runs").iterdir():
            is_candidate = path.name.startswith("candidate")
            shift = MOST_LOSS * (won + (4 if is_record and is_candidate else number % 3 if is_candidate else 0))
            run = json.loads(path.read_text())
            run["evaluation"]["nats"] -= shift * run["evaluation"]["tokens"]
            for point in run["training"]["curve"]:
                point["dev_loss_nats"] -= shift
            path.write_text(json.dumps(run))
        if is_record:
            recipe, sources, won = candidate["recipe"], ours, won + 4
    return project
