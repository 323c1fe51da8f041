"""Reads rows from folders FOLDER/ARM/RUN: TensorBoard's event files, or the state that Hugging Face's Trainer saves.

A run's number is the last value of a tag (the name of a logged quantity, such as `val/loss`). If a run has several
checkpoints, the one of the last training step is read.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import read_text
from harness.core.runs import parse_json
from harness.rule.files.rows import Row, as_float, listed, quote

STATE = "trainer_state.json"
STATE_TAG = "eval_loss"
EVENTS = "tfevents"
LAYOUT = (
    "it must contain one folder for the record's runs and one for the candidate's, each with one folder for each run, "
    "such as base/seed1"
)


class Last(NamedTuple):
    """The last value of a tag, and the training step at which it was written."""

    value: float
    step: int | None


def read_folder(folder: Path, tag: str | None) -> tuple[list[Row], list[str]]:
    """One row for each run, and notes on how the rows were read.

    Raises LlmbenchError if there are no runs or one cannot be read; the message names the folder and what to do.
    """
    runs = [(arm, run) for arm in _folders(folder) for run in _folders(arm)]
    if not runs:
        raise LlmbenchError(f"{folder} contains no runs; {LAYOUT}")
    rows, steps, tags = [], {}, {}
    for arm, run in runs:
        place = f"{arm.name}/{run.name}"
        tags[place], last = _last_of(run, tag)
        rows.append(Row(arm.name, _seed(run.name), last.value, place))
        if last.step is not None:
            steps[place] = last.step
    notes = [f"values are the last {quote(one)} of each run" for one in dict.fromkeys(tags.values())]
    if len(set(steps.values())) > 1:
        least, most = min(steps, key=lambda place: steps[place]), max(steps, key=lambda place: steps[place])
        notes.append(f"the runs end at different steps, from {steps[least]} ({least}) to {steps[most]} ({most})")
    return rows, notes


def _folders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted by name. Names that start with a dot are left out."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise LlmbenchError(f"{folder} cannot be read: {error.strerror}; fix its permissions") from error


def _seed(name: str) -> int | None:
    """The seed in a run's name: the number after `seed`, else the number at the end; None if there is neither."""
    found = re.search(r"seed[-_=]?([0-9]+)", name, re.IGNORECASE) or re.search(r"([0-9]+)$", name)
    return int(found[1]) if found else None


def _last_of(run: Path, tag: str | None) -> tuple[str, Last]:
    """The name of the logged quantity that is compared, and its last value in this run."""
    if states := sorted(run.rglob(STATE)):
        found = max(map(_state, states), key=lambda state: (state.get("global_step", 0), len(state["log_history"])))
        return _last_state(run, found, tag or STATE_TAG)
    if files := sorted(path for path in run.rglob(f"*{EVENTS}*") if path.is_file()):
        return _last_event(run, files, tag)
    raise LlmbenchError(
        f"{run} contains neither TensorBoard event files nor a {STATE}; remove this folder, or name another one"
    )


def _state(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise LlmbenchError(f"{path} is not valid JSON: {error}; remove the checkpoint") from error
    history = content.get("log_history") if isinstance(content, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise LlmbenchError(f"{path} has no list 'log_history', so Hugging Face's Trainer did not write it; remove it")
    if not isinstance(content.get("global_step", 0), int):
        raise LlmbenchError(f"{path}: 'global_step' must be a whole number; remove the checkpoint")
    return content


def _last_state(run: Path, state: dict[str, Any], tag: str) -> tuple[str, Last]:
    entries = [entry for entry in state["log_history"] if tag in entry]
    if not entries:
        raise LlmbenchError(_no_tag(run, tag, list(dict.fromkeys(key for one in state["log_history"] for key in one))))
    value, step = entries[-1][tag], entries[-1].get("step")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise LlmbenchError(
            f"{run}: the last value of '{tag}' is {quote(str(value))}, which is not a number; choose another --tag"
        )
    return tag, Last(as_float(value), step if isinstance(step, int) else None)


def _last_event(run: Path, files: Sequence[Path], tag: str | None) -> tuple[str, Last]:
    if importlib.util.find_spec("tensorboard") is None:
        raise LlmbenchError(
            f"{run} contains TensorBoard event files, and to read them llmbench needs the package tensorboard; run "
            f"`pip install tensorboard`"
        )
    last: dict[str, dict[Path, tuple[float, int, float]]] = {}
    for path in files:
        for name, found in _scalars(path):
            of_folder = last.setdefault(name, {})
            of_folder[path.parent] = max(found, of_folder.get(path.parent, found), key=lambda one: one[:2])
    if not last:
        raise LlmbenchError(
            f"{run}: its event files contain no scalars; log the loss with `add_scalar`, or remove the folder"
        )
    if tag is None and len(last) > 1:
        raise LlmbenchError(f"{run}: its event files contain several tags; choose one with --tag: {listed([*last])}")
    tag = next(iter(last)) if tag is None else tag
    if tag not in last:
        raise LlmbenchError(_no_tag(run, tag, [*last]))
    if len(last[tag]) > 1:
        places = listed([str(place.relative_to(run)) for place in last[tag]])
        raise LlmbenchError(f"{run}: the folders {places} all contain '{tag}'; keep one of them")
    ((_, step, value),) = last[tag].values()
    return tag, Last(value, step)


def _no_tag(run: Path, tag: str, known: Sequence[str]) -> str:
    return f"{run}: there is no tag {quote(tag)}{did_you_mean(tag, known)}; choose one with --tag: {listed(known)}"


def _scalars(path: Path) -> list[tuple[str, tuple[float, int, float]]]:
    """All scalars of an event file, each as (tag, (time of writing, step, value))."""
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found, scalar = [], set()
    try:
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if (
                    value.metadata.plugin_data.plugin_name == "scalars"
                ):  # some writers state the plugin only with the first value of a tag
                    scalar.add(value.tag)
                if value.tag in scalar:
                    found.append((value.tag, (event.wall_time, event.step, float(make_ndarray(value.tensor).item()))))
    except (DecodeError, ValueError, TypeError) as error:
        raise LlmbenchError(f"{path} is not a valid event file: {error}; remove it") from error
    except OSError as error:
        raise LlmbenchError(f"{path} cannot be read: {error.strerror}; fix its permissions") from error
    return found
