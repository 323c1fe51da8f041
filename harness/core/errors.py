"""Errors shown to the user, each one sentence that says what is wrong and what to do, and their exit codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0  # accepted, or nothing wrong
# 1 is left to a crash, which is a bug and never a verdict.
EXIT_USAGE = 2  # the input is wrong
EXIT_REJECTED = 3
EXIT_UNDECIDED = 4  # too little evidence, or results that must not be compared
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


LONGEST_ERROR = 2000  # characters; ours have a few hundred, and more where a path is long


class LlmbenchError(Exception):
    """An expected failure: shown as one sentence, without a traceback."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, LONGEST_ERROR))


class RejectedError(LlmbenchError):
    """A claim that does not hold."""

    exit_code = EXIT_REJECTED


class UndecidedError(LlmbenchError):
    """Evidence that is missing or not comparable."""

    exit_code = EXIT_UNDECIDED


class InterruptedRunError(LlmbenchError):
    """Ctrl-C or SIGTERM; finished work is kept."""

    exit_code = EXIT_INTERRUPTED


def one_line(text: str, longest: int | None = None) -> str:
    """`text` made safe for a terminal or a log: unprintable characters, which a file may hold, are escaped.

    Of more than `longest` characters only the beginning is left. Made safe again, the result stays as it is.
    """
    text = text if longest is None else text[: longest + 1]  # before anything takes time for all of it
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest of `known`, else an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""
