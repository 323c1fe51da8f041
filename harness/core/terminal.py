"""How text reaches people on a terminal, in a log and in Markdown; it may come from a stranger.

Lines are wrapped between words on a terminal, but not in a log or a pipe. HTML is escaped where pages are rendered.
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

_GLUE = "\x1f"  # stands for a blank at which no line may break
QUIET_S = 10.0
"""A log without a new line for so many seconds gets one that says what is going on."""


def fit(text: str, width: int) -> str:
    """`text` in lines of at most `width`, broken between words.

    Text in backquotes is to be copied, so it is not broken even if it is longer. The same holds for long paths.
    """
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in re.sub(r"`[^`\n]*`", lambda found: found[0].replace(" ", _GLUE), text).split("\n"):
        wrapper.initial_indent = wrapper.subsequent_indent = line[: len(line) - len(line.lstrip(" "))]
        lines += wrapper.wrap(line.strip(" ")) or [""]
    return "\n".join(lines).replace(_GLUE, " ")


# What GitHub does not show as plain text: Markdown, HTML, links, mentions of people and issues, lists, headings.
_ACTIVE = re.compile(
    r"[\\`*<>|~&$#\[\]{}!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|@(?=\S)|://|www\.|^\s*([-+=]|\d+[.)])\s|^\s|^[-=]+$"
)


def markdown(text: str) -> str:
    """`text` as one line of Markdown or one cell of a table; in a code span if it holds any markup."""
    text = one_line(text)
    if not _ACTIVE.search(text):
        return text
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}".replace("|", "\\|")


@cache
def stderr_console() -> Console:
    """The only console on standard error: a second one would write into the live display of the first."""
    from rich.console import Console

    return Console(stderr=True)


def put(console: Console, text: str, style: str = "", *, whole: bool = False) -> None:
    """Print one line without markup. `whole` text is not wrapped, so that it can be copied."""
    from rich.text import Text

    text = one_line(text)
    text = fit(text, console.width) if console.is_terminal and not whole else text
    console.print(Text(text, style=style), soft_wrap=True)


class Heartbeat:
    """Writes `say()` to a log that was silent for QUIET_S; a context manager around a wait. A terminal gets nothing."""

    def __init__(self, console: Console, say: Callable[[], str]) -> None:
        """`say` is called in a thread of its own."""
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
        """Print one line, on a terminal as well; the silence starts anew."""
        self._said_at = time.monotonic()
        put(self.console, line)

    def _beat(self) -> None:
        while not self._over.wait(min(1.0, QUIET_S / 5)):
            if time.monotonic() - self._said_at >= QUIET_S:
                self.put(self.say())


@contextmanager
def patiently(doing: str) -> Iterator[None]:
    """Within, a silent log on standard error says every QUIET_S what is `doing`, and for how long it has been."""
    begun = time.monotonic()
    with Heartbeat(stderr_console(), lambda: f"{doing}: {time.monotonic() - begun:.0f} s so far"):
        yield


def complain(text: str) -> None:
    """Print an error to standard error without importing rich."""
    text = one_line(text)
    if sys.stderr.isatty():
        text = fit(text, shutil.get_terminal_size().columns)
    sys.stderr.write(f"{text}\n")
