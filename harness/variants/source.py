"""Reads a variant's file from `models/variants/` and checks it before any of it runs."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import Project, read_text
from harness.variants.canonical import canonical_text, tree_digest
from harness.variants.check import check_source
from harness.variants.cost import count_statements_of

VARIANT_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
NOTE = re.compile(r"(Topic|Source|Claimed|Constants): +(.*)")


@dataclass(frozen=True)
class Notes:
    """The notes at the end of a variant's docstring, such as `Topic: attention`; None for a missing note."""

    topic: str | None = None
    """One word: attention, block, embedding, experts, feed-forward, head, loss, model, optimizer, schedule or batch."""
    source: str | None = None
    """Where the idea comes from: an address or an arXiv number."""
    claimed: str | None = None
    """What the source measured, in its own unit."""
    constants: str | None = None
    """Where the numbers in the code come from: the source, or tries on the dev split, with their number."""


@dataclass(frozen=True)
class VariantSource:
    """One variant's file, which was checked but not imported."""

    name: str
    path: Path
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the syntax tree (canonical.py).

        It does not depend on comments, layout, docstrings and the file's name.
        """
        return tree_digest(self.text)

    @property
    def code(self) -> str:
        """The code that runs: the syntax tree as text, without comments and docstrings."""
        return canonical_text(self.text)

    @property
    def cost(self) -> int:
        """Cost in statements (cost.py)."""
        return count_statements_of(self.text)

    @property
    def docstring(self) -> str:
        """The module's docstring."""
        return ast.get_docstring(ast.parse(self.text)) or ""

    @property
    def summary(self) -> str:
        """First line of the docstring, which states the change and its source."""
        return self.docstring.partition("\n")[0]

    @property
    def notes(self) -> Notes:
        """The notes at the end of the docstring.

        A line that does not begin with a note's name continues the note before it.
        """
        *_, last = self.docstring.split("\n\n")
        found, name = dict[str, str](), ""
        for line in last.splitlines():
            if match := NOTE.fullmatch(line.strip()):
                name, text = match[1].lower(), match[2]
            elif not name:
                break
            else:
                text = f"{found[name]} {line.strip()}"
            found[name] = text
        return Notes(**found)


def variant_names(project: Project) -> list[str]:
    """Names of all variants, sorted."""
    return sorted(path.stem for path in project.variants.glob("*.py") if not path.stem.startswith("_"))


def read_variant(project: Project, name: str) -> VariantSource:
    """Read and check one variant. Raises LlmbenchError if its file is missing or fails a check."""
    if name in variant_names(project) and not VARIANT_NAME.match(name):
        raise LlmbenchError(
            f"models/variants/{name}.py: a variant's name may hold only lower-case letters, digits and underscores; "
            f"rename the file"
        )
    if name not in variant_names(project):
        raise LlmbenchError(
            f"there is no variant '{name}'{did_you_mean(name, variant_names(project))}; "
            f"`llmbench variants` lists all, and a new one goes into the file models/variants/{name}.py"
        )
    path = project.variants / f"{name}.py"
    source = VariantSource(name, path, read_text(path))
    check_source(source.text, path.relative_to(project.root))
    return source
