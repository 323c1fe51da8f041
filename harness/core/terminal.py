"""Formats and prints text for a terminal, a log or Markdown.

The text may come from an untrusted file, so unprintable characters are escaped before it is printed. Lines are wrapped
between words on a terminal, but not in a log or a pipe. HTML is not escaped in this file; the code that writes HTML
pages does that.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from harness.core.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

_GLUE = "\x1f"  # marks a blank at which a line must not be broken
QUIET_S = 10.0
"""If a log gets no line for this many seconds, a line is written that says what is being done."""


def fit(text: str, width: int) -> str:
    """`text` broken between words into lines of at most `width` characters.

    Text in backquotes and long paths are never broken, even if they are longer than `width`, because users copy them.
    """
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in re.sub(r"`[^`\n]*`", lambda found: found[0].replace(" ", _GLUE), text).split("\n"):
        wrapper.initial_indent = wrapper.subsequent_indent = line[: len(line) - len(line.lstrip(" "))]
        lines += wrapper.wrap(line.strip(" ")) or [""]
    return "\n".join(lines).replace(_GLUE, " ")


# Text that GitHub does not show as it is: Markdown, HTML, links, mentions of people and issues, lists, headings.
_ACTIVE = re.compile(
    r"[\\`*<>|~&$#\[\]{}!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|@(?=\S)|://|www\.|^\s*([-+=]|\d+[.)])\s|^\s|^[-=]+$"
)


def markdown(text: str) -> str:
    """`text` as one line of Markdown that also fits a table cell. Text that contains markup becomes a code span."""
    text = one_line(text)
    if not _ACTIVE.search(text):
        return text
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}".replace("|", "\\|")


@cache
def stderr_console() -> Console:
    """The only console that writes to standard error. A second one would disturb the live display of this one."""
    from rich.console import Console

    return Console(stderr=True)


def put(console: Console, text: str, style: str = "", *, whole: bool = False) -> None:
    """Print one line, without interpreting markup. With `whole` the line is not wrapped, so that users can copy it."""
    from rich.text import Text

    text = one_line(text)
    text = fit(text, console.width) if console.is_terminal and not whole else text
    console.print(Text(text, style=style), soft_wrap=True)


class Heartbeat:
    """Context manager for a long wait: prints in a log what is being done.

    Whenever the log has got no line for QUIET_S seconds, it prints the text that `say` returns. On a terminal it prints
    nothing by itself.
    """

    def __init__(self, console: Console, say: Callable[[], str]) -> None:
        """`say` is called in a separate thread."""
        self.console, self.say = console, say
        self._said_at, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._said_at = time.monotonic()
        if not self.console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def put(self, line: str) -> None:
        """Print one line to the log or the terminal. The next QUIET_S seconds count from this line."""
        self._said_at = time.monotonic()
        put(self.console, line)

    def _beat(self) -> None:
        while not self._over.wait(min(1.0, QUIET_S / 5)):
            if time.monotonic() - self._said_at >= QUIET_S:
                self.put(self.say())


@contextmanager
def patiently(doing: str) -> Iterator[None]:
    """Context manager for a long wait: prints in a log what is being done.

    Whenever the log has got no line for QUIET_S seconds, it prints `doing`, such as "checking", and the seconds so far.
    On a terminal it prints nothing.
    """
    begun = time.monotonic()
    with Heartbeat(stderr_console(), lambda: f"{doing}: {time.monotonic() - begun:.0f} s so far"):
        yield


def complain(text: str) -> None:
    """Print an error to standard error without importing the package rich."""
    text = one_line(text)
    if sys.stderr.isatty():
        text = fit(text, shutil.get_terminal_size().columns)
    sys.stderr.write(f"{text}\n")
