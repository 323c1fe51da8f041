"""Expected errors and their exit codes. Each error is one sentence: what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0  # accepted, or nothing wrong
# 1 means a crash: a bug of llmbench.
EXIT_USAGE = 2  # the input is wrong
EXIT_REJECTED = 3
EXIT_UNDECIDED = 4  # too little evidence, or results that must not be compared
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


LONGEST_ERROR = 2000  # characters; a usual message has a few hundred


class LlmbenchError(Exception):
    """An expected failure: shown as one sentence, without a traceback."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, LONGEST_ERROR))


class RejectedError(LlmbenchError):
    """A submission has a problem, or a candidate cannot become a record."""

    exit_code = EXIT_REJECTED


class UndecidedError(LlmbenchError):
    """Evidence is missing or cannot be compared."""

    exit_code = EXIT_UNDECIDED


class InterruptedRunError(LlmbenchError):
    """The user ended the command with Ctrl-C or SIGTERM. Finished runs are kept."""

    exit_code = EXIT_INTERRUPTED


def one_line(text: str, longest: int | None = None) -> str:
    """Returns `text` with unprintable characters escaped, which is safe for a terminal or a log.

    A text longer than `longest` characters is cut. Applying the function twice gives the same result as applying it
    once.
    """
    text = text if longest is None else text[: longest + 1]  # before the rest, which is slow for a huge text
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, where x is the name in `known` most similar to `name`; "" if none is similar."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


def without_log(reason: str) -> str:
    """The reason of a failed run, without the path of the run's log on this machine."""
    return reason.partition(" (full log: ")[0]
