"""Lines for people: wrapped between words on a terminal, never wrapped in a log or a pipe."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_GLUE = "\x1f"  # replaces blanks that must not be broken at


def fit(text: str, width: int) -> str:
    """`text` in lines of at most `width`, broken between words.

    Text in backquotes is there to be copied: it is never broken, nor are long paths, even beyond the width.
    """
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in re.sub(r"`[^`\n]*`", lambda found: found[0].replace(" ", _GLUE), text).split("\n"):
        wrapper.initial_indent = wrapper.subsequent_indent = line[: len(line) - len(line.lstrip(" "))]
        lines += wrapper.wrap(line.strip(" ")) or [""]
    return "\n".join(lines).replace(_GLUE, " ")


@cache
def stderr_console() -> Console:
    """The one console on standard error; a second one would print lines into the live display of the first."""
    from rich.console import Console

    return Console(stderr=True)


def put(console: Console, text: str, style: str = "", *, whole: bool = False) -> None:
    """Print one line without markup; `whole` leaves wrapping to the terminal, for text that is to be copied."""
    from rich.text import Text

    text = fit(text, console.width) if console.is_terminal and not whole else text
    console.print(Text(text, style=style), soft_wrap=True)


def complain(text: str) -> None:
    """Print an error to standard error without importing rich."""
    if sys.stderr.isatty():
        text = fit(text, shutil.get_terminal_size().columns)
    sys.stderr.write(f"{text}\n")
