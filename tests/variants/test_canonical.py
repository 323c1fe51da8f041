"""What of a source's text counts: two texts with one tree are one variant, and the tree is what runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.variants.canonical import canonical_text, canonical_tree, tree_digest
from harness.variants.source import VariantSource

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "models" / "variants").glob("*.py"), *(ROOT / "tests" / "honest").glob("*.py")])
IDEA = '''"""An idea."""
from models.parts import Parts

class Half:
    """Halves."""
    def __call__(self, x):
        """x / 2"""
        return x * 0.5  # exact

def apply(parts: Parts) -> Parts:
    return parts
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""An idea."""', '"""Another text,\n\nof several lines."""'),
        ('        """x / 2"""\n', ""),
        ('    """Halves."""\n', '    "Halves."\n    "And more."\n'),
        ("  # exact", ""),
        ("x * 0.5", "(x\n            * (5e-1))"),
        ("\n\ndef", "\n\n\n# a comment\n\n\ndef"),
    ],
)
def test_layout_comments_and_docstrings_are_no_part_of_a_variant(old: str, new: str) -> None:
    assert old in IDEA
    edited = IDEA.replace(old, new)
    assert tree_digest(edited) == tree_digest(IDEA)
    assert canonical_text(edited) == canonical_text(IDEA)
    assert VariantSource("a", Path("a.py"), IDEA).digest == VariantSource("b", Path("b.py"), edited).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.5", "0.25"), ("x * 0.5", "x * 1"), ("(self, x)", "(self, y)"), ("Half", "Third"), ("x * 0.5", "x / 0.5")],
)
def test_all_that_runs_is_part_of_a_variant(old: str, new: str) -> None:
    assert tree_digest(IDEA.replace(old, new)) != tree_digest(IDEA)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = None", "x = ''"),
        ("x = 'a'", "x = b'a'"),
        ("x = 0.0", "x = 0"),
    ],
)
def test_constants_that_compare_equal_are_still_told_apart(one: str, other: str) -> None:
    assert tree_digest(one) != tree_digest(other)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_runs_has_the_tree_of_what_is_read(path: Path) -> None:
    text = path.read_text()
    assert tree_digest(canonical_text(text)) == tree_digest(text)
    assert canonical_text(canonical_text(text)) == canonical_text(text)
    assert '"""' not in canonical_text(text)
    assert "#" not in canonical_text(text)


def test_the_digest_is_the_same_in_every_version_of_python() -> None:
    """Fixed here: `ast.dump` of this text differs between 3.11, 3.12 and 3.13."""
    assert tree_digest(IDEA)[:16] == "a1b96b07a0415ed2"


@given(
    st.recursive(
        st.sampled_from(["a", "b", "1", "0.5", "'t'"]),
        lambda inner: st.tuples(inner, st.sampled_from(["+", "*", "-", "@"]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
    )
)
def test_different_trees_have_different_digests(expression: str) -> None:
    changed = expression.replace("+", "*", 1)
    same = ast.dump(canonical_tree(expression)) == ast.dump(canonical_tree(changed))
    assert (tree_digest(expression) == tree_digest(changed)) == same


def test_what_cannot_be_written_out_is_refused_in_a_sentence() -> None:
    for text in ("def", "x = 0x" + "f" * 5000, "(" * 300 + ")" * 300):
        with pytest.raises(LlmbenchError, match="cannot be parsed as Python"):
            canonical_text(text)
