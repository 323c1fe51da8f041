"""`--set key=value` replaces one value of a track before the track is checked."""

from __future__ import annotations

import tomllib
from typing import Any

from harness.core.dataspec import PINS
from harness.core.errors import LlmbenchError, did_you_mean

TABLES, VALUES = ("model", "optim", "budget", "data"), ("device", "threads", "compile", "processes")
"""The tables and values that `--set` can change. `seeds` and `rule`, which judge candidates, are not among them."""


def apply_setting(content: dict[str, Any], setting: str) -> None:
    """Apply the setting `key=value` to `content`, the parsed file of a track.

    The value is read as TOML or, if it is not valid TOML, as a string. If the setting can change the tokens, the
    digests of the tokens are removed from `content`. Raises LlmbenchError for a key that `--set` cannot change.
    """
    key, equals, text = setting.partition("=")
    first, *names = key.split(".")
    if not equals or not all((first, *names)):
        raise LlmbenchError(f"--set takes KEY=VALUE, as in `--set model.num_layers=2`, not '{setting[:80]}'")
    if first not in TABLES + VALUES:
        raise LlmbenchError(
            f"--set {key[:80]}: '{first[:80]}' cannot be set{did_you_mean(first, TABLES + VALUES)}; "
            f"the keys that can be set are {', '.join(f'{name}.KEY' for name in TABLES)}, {', '.join(VALUES)}"
        )
    if bool(names) != (first in TABLES) or (first == "data" and names[0] in PINS):
        said = (
            f"{first} has no keys; write {first}=VALUE"
            if first in VALUES
            else f"{first} is a table; set one of its keys, as {first}.KEY=VALUE"
            if not names
            else "this key is a digest of the data, which cannot be set; leave it out"
        )
        raise LlmbenchError(f"--set {key[:80]}: {said}")
    table = content
    *parents, last = first, *names
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise LlmbenchError(
                f"--set {key[:80]}: '{name}' is a value, not a table; write nothing between '{name}' and the equals "
                f"sign"
            )
    table[last] = _read(text)
    if first == "data" or key == "model.vocab_size":
        for pin in PINS:
            content.get("data", {}).pop(pin, None)


def _read(text: str) -> Any:
    """The value that is written in `text`: `2` -> 2, `[1, 2]` -> [1, 2], `cpu` -> "cpu"."""
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return content["value"] if content.keys() == {"value"} else text
