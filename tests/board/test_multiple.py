"""What a record is worth in compute follows from the base's losses on other sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.board.leaderboard import compute_multiples, curve_path, make_rows
from harness.board.rows import board_markdown, sections
from harness.core.errors import LlmbenchError
from harness.core.project import Project


def test_a_loss_that_the_base_has_at_ten_times_the_compute_is_worth_ten(project: Project, tmp_path: Path) -> None:
    rows, empty = make_rows(project), Project(tmp_path)
    holder = next(own[0] for track, title, own in sections(rows) if (track, title) == ("pocket", "records"))
    assert holder.val_loss is not None
    assert compute_multiples(empty, rows) == {}
    path = curve_path(empty, "pocket")
    path.parent.mkdir(parents=True)
    points = [[1e11, 5.0], [1e12, holder.val_loss + 0.3], [1e13, holder.val_loss]]
    path.write_text(json.dumps({"compute": 1e12, "points": points}))
    found = compute_multiples(empty, rows)
    assert found == {"pocket": pytest.approx(10)}
    assert "the base needs about 10.0 times" in board_markdown(rows, found)
    path.write_text(json.dumps({"compute": 1e12, "points": points[:2]}))
    assert compute_multiples(empty, rows) == {}  # the base is nowhere as good: nothing is extrapolated
    path.write_text(json.dumps({"compute": 2e12, "points": points}))
    with pytest.raises(LlmbenchError, match="does not contain the base's loss on pocket; restore the file"):
        compute_multiples(empty, rows)
    path.write_text("{")
    with pytest.raises(LlmbenchError, match=r"curve\.json is not valid"):
        compute_multiples(empty, rows)


def test_a_readme_has_ten_records_at_most_and_a_line_for_each_other_track(project: Project) -> None:
    rows = make_rows(project)
    record = next(row for row in rows if row.number == 2)
    many = [*rows, *(record.model_copy(update={"number": 100 + more}) for more in range(20))]
    text = board_markdown(many, {})
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 11  # with its head
    assert table[1].startswith("| 119 |")
    assert table[-1].startswith("| 1 |")
    others = sorted({row.track for row in rows} - {"pocket"})
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("- Record of")] == others
