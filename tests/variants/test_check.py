"""The static check: what the syntax tree can show is refused with the line and the fix, and honest ideas pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.variants.allowed import BASE_MODULES
from harness.variants.check import MAX_CONSTANTS, MAX_FILE_BYTES, MAX_STRING_BYTES, check_source
from harness.variants.source import read_variant, variant_names
from tests.make import OWN_VARIANTS

HERE = Path(__file__).resolve().parents[1]
HONEST = sorted((HERE / "honest").glob("*.py"))
PLACE = Path("models/variants/idea.py")
HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nimport torch\nfrom torch import nn\n'
APPLY = "def apply(parts):\n    return parts\n"
# Cost of each committed variant, which prices claims on the board.
COSTS = {"placebo": 11, "qk_norm": 13, "requery": 14, "token_smear": 17}


def refusal(text: str) -> str:
    """The sentence that a source is refused with; empty where it passes."""
    try:
        check_source(text, PLACE)
    except LlmbenchError as error:
        return str(error)
    return ""


def test_every_committed_variant_passes_at_its_cost(project: Project) -> None:
    costs = {name: read_variant(project, name).cost for name in variant_names(project)}
    assert COSTS.items() <= costs.items()
    assert all(read_variant(project, name).summary.endswith(".") for name in OWN_VARIANTS)


@pytest.mark.parametrize("path", HONEST, ids=lambda path: path.stem)
def test_what_research_needs_passes(path: Path) -> None:
    assert refusal(path.read_text()) == ""


def test_the_base_itself_would_pass_as_a_variant() -> None:
    """But for private names of its modules, and the tied weight, which it sets on another module."""
    for name in BASE_MODULES - {"models.parts"}:
        text = (HERE.parent / f"{name.replace('.', '/')}.py").read_text()
        text = text.replace("def forward(self, input: Tensor)", "def forward(self, tokens: Tensor)")
        text = text.replace("super().forward(input)", "super().forward(tokens)")
        text = text.replace("                head.weight = table.weight\n", "                pass\n")
        text = text.replace("            head.weight = table.weight\n", "            pass\n")
        # The base asks the hardware; a variant gets the tensors that follow from that.
        text = re.sub(r"torch\.(cuda\.\w+|is_autocast_enabled|get_autocast_dtype)\(.*?\)", "True", text)
        assert refusal(text + APPLY) == "", name


# Source fragment -> what its refusal names. Each is a way past a check that looks only at the obvious.
REACHES = {
    # modules and files
    "from os import path": "imports 'os'",
    "def f():\n    import subprocess": "imports 'subprocess'",
    "if 1:\n    import time": "imports 'time'",
    "from harness import data": "imports 'harness'",
    "from . import other": r"imports '.'",
    "from .. import harness": r"imports '..'",
    "from models.gpt import torch as t": "'models.gpt.torch'",
    "import models.gpt as g\nx = g.F": "'models.gpt.F'",
    "from torch import *": "'torch.*'",
    "import torch.utils.checkpoint\nx = torch.utils.data": "'torch.utils.data'",
    "x = torch.compile(parts)": "'torch.compile': the harness decides",
    # a module in disguise
    "t = torch": "the module 'torch' as a value",
    "t = [nn.functional]": "the module 'torch.nn.functional' as a value",
    "def f(m=torch): return m.os": "the module 'torch' as a value",
    "nn = 3": "the module 'torch.nn' as a value",
    "import torch.nn.functional as F\nB, T, F = 1, 2, 3": "the module 'torch.nn.functional' as a value",
    "import math as torch": "imports two things as 'torch'",
    # built-ins and the interpreter
    "def open(): pass\nx = open('y')": "uses 'open'",
    "try:\n    x = 1\nexcept BaseException:\n    x = 2": "uses 'BaseException'",
    "try:\n    x = 1\nexcept:\n    x = 2": "catches everything",
    "try:\n    x = 1\nexcept ValueError as e:\n    y = e.__traceback__.tb_frame": "reaches for '",
    "try:\n    x = 1\nexcept AttributeError as e:\n    y = e.obj": "reaches for 'obj'",
    "match replace:\n    case object(__init__=f): pass": "reaches for '__init__'",
    "match (lambda: 0):\n    case object(__globals__=g): pass": "reaches for '__globals__'",
    "x = f'{nn.Linear.__mro__}'": "reaches for '__mro__'",
    # replacing what is not the variant's
    "torch.nn.Linear.forward = None": "assigns to '.forward'",
    "del nn.functional.pad": "assigns to 'torch.nn.functional.pad'",
    "nn.functional.pad += 1": "assigns to 'torch.nn.functional.pad'",
    "for nn.Linear.bias in [1]: pass": "assigns to '.bias'",
    "x = [0 for nn.Linear.bias in [1]]": "assigns to '.bias'",
    "with torch.no_grad() as nn.Linear.bias: pass": "assigns to '.bias'",
    "x = [1]\nx[0].training = True": "assigns to '.training'",
    "torch.x[0] = 1": "stores into 'torch'",
    "nn.Linear.table[0] = 1": "stores into 'torch.nn'",
    "def f(self): self.bias = 1": "binds 'self'",
    "self = nn.Linear": "binds 'self'",
    "x = lambda self: [0 for self.bias in [1]]": "binds 'self'",
    "class A:\n    def f(self):\n        for self in [nn.Linear()]: self.bias = 1": "binds 'self'",
    "class A:\n    def f(self):\n        def g(self): self.bias = 1": "binds 'self'",
    "class A:\n    def f(self):\n        match 1:\n            case self: self.bias = 1": "binds 'self'",
    "class A:\n    def f(self): self.forward = 1": "replaces 'forward'",
    "class A:\n    def f(self): self.training = True": "replaces 'training'",
    "class A:\n    def f(self): self.__dict__ = {}": "reaches for '__dict__'",
    "class A:\n    @classmethod\n    def f(cls): cls.x = 1": "assigns to '.x'",
    "class A:\n    def f(self): self.inner.weight = 1": "assigns to '.weight'",
    "c = nn.Linear": "hands on the class 'torch.nn.Linear'",
    "isinstance(1, (c := nn.Linear))": "hands on the class 'torch.nn.Linear'",
    "from torch import Tensor\nc = [Tensor]": "hands on the class 'torch.Tensor'",
    "from functools import partial\nc = partial(nn.Linear).func": "hands on the class 'torch.nn.Linear'",
    "class A(torch.Tensor): pass": "extends 'torch.Tensor'",
    "class A(nn.Parameter): pass": "extends 'torch.nn.Parameter'",
    "from models.parts import Parts\nclass A(Parts): pass": "extends 'models.parts.Parts'",
    "class A((lambda: nn.Linear)()): pass": "a base that cannot be read",
    "class B: pass\nB = 1\nclass A(B): pass": "a base that cannot be read",
    "class A(nn.Module, metaclass=B): pass": "class A has keywords",
    "def f():\n    global x\n    x = 1": "rebinds a name of another scope",
    "def f():\n    x = 0\n    def g():\n        nonlocal x\n        x = 1": "rebinds a name of another scope",
    # what the harness relies on
    "class A(nn.Module):\n    eval = None": "defines 'eval'",
    "class A(nn.Module):\n    training: bool = True": "defines 'training'",
    "class A(nn.Module):\n    if 1:\n        def modules(self): return []": "defines 'modules'",
    "class A(nn.Module):\n    from math import cos as zero_grad": "defines 'zero_grad'",
    "class A(nn.Module):\n    def f(self, x=(buffers := 1)): pass": "defines 'buffers'",
    "class A:\n    __match_args__ = ('__globals__',)": "'__match_args__'",
    "class A(nn.Module):\n    def f(self): return self.state_dict()": "the weights that are scored",
    "x = nn.Linear(1, 1).train()": "reaches for 'train': the harness switches",
    "x = nn.Linear(1, 1).requires_grad_(False)": "reaches for 'requires_grad_': every parameter",
    "x = nn.Linear(1, 1).register_forward_hook(print)": "'",
    "nn.Module.__init__(1)": "write super().__init__()",
    "x = nn.Linear(1, 1).forward(torch.ones(1))": "write super().forward(), or call the object",
    # seeds, the backward pass, global settings
    "x = torch.Generator()": "'torch.Generator': seeds and random streams",
    "torch.ones(1).sum().backward()": "reaches for 'backward': the harness runs the backward pass",
    "with torch.enable_grad(): pass": "'torch.enable_grad': the harness runs",
    "with torch.inference_mode(False): pass": "'torch.inference_mode': the harness runs",
    "torch.set_grad_enabled(True)": "'torch.set_grad_enabled': the harness runs",
    "torch.backends.mkldnn.enabled = False": "assigns to '.enabled'",
    "x = torch.ones(1).as_subclass(nn.Parameter)": "reaches for 'as_subclass': a variant computes with plain tensors",
    # another text than the reviewer reads, and knowledge smuggled in
    "# \u202e hidden": "invisible character U+202E",
    "x = 1\r# y": "invisible character U+000D",
    "x = '\0'": "invisible character U+0000",
    f"x = {[1.5] * (MAX_CONSTANTS + 1)}": "257 constants",
    f"x = {'a' * (MAX_STRING_BYTES + 1)!r}": "2,001 bytes of strings",
    f"x = {b'a' * (MAX_STRING_BYTES + 1)!r}": "2,001 bytes of strings",
    f"x = 'b' f'{'a' * MAX_STRING_BYTES}{{replace}}'": "2,001 bytes of strings",
    f"x = {2**64}": "an integer of more than 64 bits",
    "# " + "a" * MAX_FILE_BYTES: "make it one idea",
    # not Python
    "def f(parts:": "syntax error",
    "return 1": "syntax error",
    r"x = '\d'": "syntax error: invalid escape sequence",
    "x = " + "-" * 5000 + "1": "syntax error",
    "x = " + "(" * 500 + ")" * 500: "syntax error",
}
# Each of these names is refused for its own sake: fragment, what its refusal says, names.
NAMED = [
    (
        "import {0}",
        "imports '{0}'",
        "os sys time threading numpy models torch.hub enum models.helpers models.variants.other torch.func "
        "torch.utils.cpp_extension",
    ),
    (
        "from {1} import {2}",
        "'{0}'",
        "models.variants models.parts._STRICT dataclasses.sys functools.wraps functools.update_wrapper "
        "operator.attrgetter operator.methodcaller operator.setitem typing.get_type_hints typing.ForwardRef "
        "dataclasses.make_dataclass abc.ABCMeta torch.utils.checkpoint.weakref",
    ),
    (
        "x = torch.{0}",
        "'torch.{0}'",
        "os nn.functional.os PyTorchFileReader load from_file UntypedStorage _dynamo _C nn.ParameterDict package "
        "multiprocessing get_device_module random autograd.grad is_grad_enabled save ops classes jit cuda "
        "default_generator set_num_threads set_default_dtype use_deterministic_algorithms "
        "set_float32_matmul_precision backends",
    ),
    (
        "x = {0}",
        "uses '{0}'",
        "__import__ __builtins__ __loader__ eval open getattr setattr vars type memoryview input exit SystemExit",
    ),
    (
        "x = nn.Linear.{0}",
        "reaches for '{0}'",
        "tofile __subclasses__ __globals__ gi_frame format format_map mro _forward_hooks "
        "register_state_dict_post_hook register_hook register_post_accumulate_grad_hook data_ptr _parameters",
    ),
    (
        "class A(nn.Module):\n    def {0}(self): pass",
        "defines '{0}'",
        "state_dict load_state_dict train parameters get_extra_state __call__ __getattr__ __setattr__ __reduce__ "
        "__del__ __init_subclass__ _save_to_state_dict",
    ),
]
for fragment, refused, names in NAMED:
    for name in names.split():
        module, _, inner = name.rpartition(".")
        REACHES[fragment.format(name, module, inner)] = refused.format(name)


@pytest.mark.parametrize(("fragment", "words"), REACHES.items(), ids=range(len(REACHES)))
def test_what_reaches_past_the_model_is_refused_by_name(fragment: str, words: str) -> None:
    sentence = refusal(f"{HEAD}{fragment}\n{APPLY}")
    assert words in sentence
    assert sentence.startswith(str(PLACE))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (APPLY, "add a docstring"),
        (HEAD, "define `def apply"),
        (HEAD + "class A:\n    def apply(parts): pass\n", "defines 'apply'"),
        (HEAD + APPLY + "x = 1\nimport os\ny = open('z')\n", ":8: imports 'os'"),
    ],
)
def test_a_file_without_the_contracts_form_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


def test_what_only_looks_like_reaching_passes() -> None:
    for fragment in (
        "F = 3\nB, T, F = 1, 2, F",
        "class A(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self._cache = {}",
        "class A(nn.Module):\n    def f(self, x: torch.Tensor) -> tuple[torch.Tensor, nn.Linear]: return x.float()",
        "x = isinstance(1, (nn.Linear, nn.Embedding | torch.Tensor))",
        "def f(parameters, modules): state_dict = 1; return state_dict, parameters",
        "class A:\n    training_steps = 1\n    def step(self): return self.training_steps",
        "class A(nn.Module):\n    pass\nclass B(A):\n    pass",
        "'''" + "a text that is dropped. " * 100 + "'''",
        "import torch.nn.functional\nimport torch.utils.checkpoint\nx = torch.nn.functional.pad",
        "from typing import NamedTuple\nclass A(NamedTuple):\n    x: int\ny = A(1)._replace(x=2)",
        "class A(torch.autograd.Function):\n    @staticmethod\n    def backward(ctx, g):\n        ctx.n = 1",
        "x = [p for p in nn.Linear(1, 1).parameters() if p.grad is not None]",
        "with torch.autocast('cpu'):\n    pass",
        "try:\n    pass\nexcept (torch.linalg.LinAlgError, ValueError):\n    pass",
    ):
        assert refusal(f"{HEAD}{fragment}\n{APPLY}") == "", fragment


# --- random and broken files; damaged ones are in tests/board/test_fuzz.py ----------------------------------------

PIECES = "torch nn self class_A( def_f( ): . = [ ] ( ) lambda_ import_ from_ _as_ match_ case_ x for_ _in_ with_"
PIECES += " yield_ := * f'{ }' @"
WORDS = st.sampled_from(["\n", "    ", "__class__", *(piece.replace("_", " ") for piece in PIECES.split())])


@settings(max_examples=200)
@given(words=st.lists(WORDS, max_size=25))
def test_random_programs_pass_or_are_refused_in_one_sentence(words: list[str]) -> None:
    assert refusal(f"{HEAD}{''.join(words)}\n{APPLY}").isprintable()


@pytest.mark.parametrize(
    "text", ["-" * 60_000 + "1", "a" + ".a" * 30_000, "[" * 60_000, "a" + "()" * 30_000, "a\n" * 9_000]
)
def test_a_hostile_shape_is_judged_in_seconds(text: str) -> None:
    assert "syntax error" in refusal(f"{HEAD}x = {text}\n{APPLY}") or text.startswith(("a.", "a\n"))
