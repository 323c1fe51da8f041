"""The check of a source: what would fool or tire a reviewer is refused with the line and the fix, honest ideas pass."""

from __future__ import annotations

import math
import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.variants import check
from harness.variants.check import check_source, knowledge_nats
from harness.variants.source import read_variant, variant_names
from tests.make import OWN_VARIANTS, ROOT

HONEST = sorted((ROOT / "tests" / "honest").glob("*.py"))
PLACE = Path("models/variants/idea.py")
HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nimport torch\nfrom torch import nn\n'
APPLY = "def apply(parts):\n    return parts\n"


def refusal(text: str) -> str:
    """The sentence that a source is refused with; empty where it passes."""
    try:
        check_source(text, PLACE)
    except LlmbenchError as error:
        return str(error)
    return ""


def test_every_committed_variant_passes_and_says_what_it_changes(project: Project) -> None:
    summaries = {name: read_variant(project, name).summary for name in variant_names(project)}
    assert all(summaries[name].endswith(".") for name in OWN_VARIANTS)


@pytest.mark.parametrize("path", HONEST, ids=lambda path: path.stem)
def test_what_research_needs_passes(path: Path) -> None:
    assert refusal(path.read_text()) == ""


@pytest.mark.parametrize("name", ["attention", "gpt", "kernels", "moe", "muon", "optim"])
def test_the_base_itself_would_pass_as_a_variant(name: str) -> None:
    assert refusal((ROOT / "models" / f"{name}.py").read_text() + APPLY) == ""


# Source fragment -> what its refusal names.
REFUSED = {
    # imports that tell no reader what a name is, or that no model needs
    "from os import path": "imports 'os'; a variant may import only abc, ",
    "def f():\n    import subprocess": "imports 'subprocess'",
    "if 1:\n    import time": "imports 'time'",
    "import numpy": "imports 'numpy'",
    "import torchvision": "imports 'torchvision'",
    "import models": "imports 'models'",
    "from harness import data": "imports 'harness'",
    "from models.variants import other": "imports 'models.variants'",
    "from . import other": "imports '.'",
    "from .. import harness": "imports '..'",
    "from models.gpt import *": "imports everything from 'models.gpt'",
    "from torch import *": "imports everything from 'torch'",
    # what runs is not what is written
    "exec('x = 1')": "uses 'exec'",
    "x = eval('1')": "uses 'eval'",
    "x = [compile][0]": "uses 'compile'",
    "def f(reader=open): pass": "uses 'open'",
    "x = __import__('os')": "uses '__import__'",
    "x = globals()['torch']": "uses 'globals'",
    "x = getattr(torch, 'o' + 's')": "calls 'getattr' with a computed",
    "for name in 'ab': setattr(nn, name, 1)": "calls 'setattr' with a computed",
    "x = getattr(apply, '__doc__')": "calls 'getattr' with a computed or forbidden name",
    "from operator import attrgetter": "uses 'attrgetter'",
    "torch.os.fork()": "uses 'os'",
    "from torch.hub import sys": "uses 'sys'",
    "torch.glob.re.enum.bltns.exec('1')": "uses 'exec'",
    "x = apply.__doc__": "uses '__doc__'",
    "x = (lambda: 0).__globals__": "uses '__globals__'",
    "match replace:\n    case object(__code__=g): pass": "uses '__code__'",
    # another text than the reviewer reads
    "# \u202e hidden": "invisible character U+202E",
    "x = 1\r# y": "invisible character U+000D",
    "x = '\0'": "invisible character U+0000",
    "# \U000e0130": "invisible character U+E0130",
    "# \u3164": "invisible character U+3164",
    "# \u2800": "invisible character U+2800",
    "# a\u0301": "invisible character U+0301",
    "# \u00a0": "invisible character U+00A0",
    "\u0430 = 1": "U+0430 outside a comment",
    "x = 'na\u00efve'": "U+00EF outside a comment",
    "x = '# na\u00efve'": "U+00EF outside a comment",
    # knowledge of a text
    f"x = {[1.5] * (check.MAX_ENTRIES + 1)}": "65 entries in one collection or call",
    f"x = {dict.fromkeys(range(check.MAX_ENTRIES + 1))}": "65 entries in one collection or call",
    f"x = dict({', '.join(f'a{i}=1' for i in range(check.MAX_ENTRIES + 1))})": "65 entries in one collection or call",
    "\n".join(f"x{i} = [1.5, 2, 3j]" for i in range(43)): "129 constants, but a variant may have at most 128",
    "\n".join(f"x{i} = True" for i in range(129)): "129 constants, but a variant may have at most 128",
    f"x = {'a' * (check.MAX_STRING_BYTES + 1)!r}": "401 bytes of strings",
    f"x = {b'a' * (check.MAX_STRING_BYTES + 1)!r}": "401 bytes of strings",
    f"x = 'b' f'{'a' * check.MAX_STRING_BYTES}{{replace}}'": "401 bytes of strings",
    "x = 12345678901": "a number has more than 10 digits",
    "x = 0x1234567890ab": "a number has more than 10 digits",
    "x = 0.12345678901": "a number has more than 10 digits",
    "x = 1.2345678901e-30": "a number has more than 10 digits",
    f"{'a' * 41} = 1": "a name has 41 letters, but at most 40 are allowed",
    f"x = dict({'a' * 41}=1)": "a name has 41 letters",
    f"x.{'a' * 41} = 1": "a name has 41 letters",
    "\n".join(
        f"{'a' * 35}{i} = x" for i in range(10, 50)
    ): "letters of names, strings and numbers, but a variant may have at most 1,",
    "\n".join(
        f"x = {'a' * 32}{i}, 123456, {'b' * 8!r}" for i in range(10, 34)
    ): "letters of names, strings and numbers",
    "\n".join(
        f"x = {', '.join('ab' * 20)}" for i in range(5)
    ): "200 entries of collections, but a variant may have at most 160",
    "# " + "a" * check.MAX_FILE_BYTES: "but a variant may have at most",
    # not Python
    "def f(parts:": "syntax error",
    "return 1": "syntax error",
    r"x = '\d'": "invalid escape sequence",
    "x = " + "-" * 100 + "1": "nested more than 100 levels deep",
    "x = " + "-" * 5000 + "1": "idea.py: ",
    "x = " + "(" * 500 + ")" * 500: "syntax error",
    "x = '''\u00e9": "syntax error",
}


@pytest.mark.parametrize(("fragment", "words"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_a_reader_could_not_judge_is_refused_by_name(fragment: str, words: str) -> None:
    sentence = refusal(f"{HEAD}{fragment}\n{APPLY}")
    assert words in sentence
    assert sentence.startswith(str(PLACE))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (APPLY, "add a docstring"),
        ('"""\n\nThe first line is empty."""\n' + APPLY, ""),
        ('"""   """\n' + APPLY, "add a docstring"),
        (HEAD, "define `def apply"),
        (HEAD + "class A:\n    def apply(parts): pass\n", "define `def apply"),
        (HEAD + APPLY + "x = 1\nimport os\ny = open('z')\n", ":8: imports 'os'"),
    ],
)
def test_a_file_without_the_contracts_form_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)
    assert bool(words) == bool(refusal(text))


def test_what_an_author_may_write_passes() -> None:
    for fragment in (
        "# by H\u00e4gele, \u0141ukasz and \u738b: \u03bb = 0.1",
        "x = 1  # \u00fcber",
        "from models import gpt, moe\nx = gpt.Linear",
        "import torch.nn.functional as F\nimport torch.utils.checkpoint\nx = F.pad",
        "x = getattr(nn, 'Linear')\nsetattr(x, 'bias', None)\nx = [1, 2][hasattr(x, 'y')]",
        "class A(nn.Module):\n    def forward(self, input): return input.eval()",
        "x = 3.4445 + 1e-10 + 1_000_000_000_000 + 10**40 + 0.0001234567891",
        "'''" + "a text that is dropped. " * 100 + "'''",
        "def f(self): self.inner.weight = 1",
        "x = torch.compile(nn.Linear(1, 1))",
    ):
        assert refusal(f"{HEAD}{fragment}\n{APPLY}") == "", fragment


# --- what a source could know ---------------------------------------------------------------------------------------


def test_knowledge_grows_with_code_and_not_with_words_about_it(project: Project) -> None:
    small, large = (read_variant(project, name).text for name in ("qk_norm", "zero_compute_expert"))
    assert 0 < knowledge_nats(small) < knowledge_nats(large)
    commented = small.replace("\n\n\n", "\n\n\n# a remark\n").replace('"""\n', 'And more words."""\n', 1)
    assert commented != small
    assert knowledge_nats(commented) == knowledge_nats(small)


def test_nothing_hides_from_the_bound_beside_the_docstring() -> None:
    plain = knowledge_nats('"""An idea."""\n' + APPLY)
    for more in ('"""An idea."""; x = "letters"\n', '"""An idea.""" "letters"\n', '"""An idea."""\n"letters"\n'):
        assert knowledge_nats(more + APPLY) > plain


@pytest.mark.parametrize("text", ["def f(", "x = 'a", "x = " + "(" * 500 + ")" * 500])
def test_a_broken_text_has_no_bound(text: str) -> None:
    with pytest.raises(LlmbenchError, match="cannot be measured"):
        knowledge_nats(text)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(10, 500))
def test_no_string_knows_more_than_the_bound(seed: int, length: int) -> None:
    """Random letters cannot be compressed below what they tell apart."""
    letters = "".join(random.Random(seed).choices(string.ascii_letters + string.digits + "+-", k=length))
    assert knowledge_nats(f"{HEAD}x = {letters!r}\n{APPLY}") >= length * math.log(64)


# --- random and broken files; damaged ones are in tests/board/test_fuzz.py ----------------------------------------

PIECES = "torch nn self class_A( def_f( ): . = [ ] ( ) lambda_ import_ from_ _as_ match_ case_ x for_ _in_ with_"
PIECES += " yield_ := * f'{ }' @ # \u00e9 getattr( global_ \\"
WORDS = st.sampled_from(["\n", "    ", "__class__", *(piece.replace("_", " ") for piece in PIECES.split())])


@settings(max_examples=200)
@given(words=st.lists(WORDS, max_size=25))
def test_random_programs_pass_or_are_refused_in_one_sentence(words: list[str]) -> None:
    assert refusal(f"{HEAD}{''.join(words)}\n{APPLY}").isprintable()
