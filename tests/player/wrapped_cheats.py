"""Cheats that wrap the head or every block of the model, or the optimizer: what each tries, and how.

The others are files of their own in tests/cheats/.
"""

from __future__ import annotations

from textwrap import indent
from typing import NamedTuple

WRAPPER = '''"""{tries}"""

from dataclasses import replace

import torch
from torch import nn


class Cheat(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
{start}
    def forward(self, x_BTD):
{forward}


def apply(parts):
    return replace(parts, {part}=lambda final, *layer: Cheat(parts.{part}(final, *layer)))
'''


OPTIMIZER = '''"""{tries}"""

from dataclasses import replace

from torch.optim import SGD


class Again(SGD):
    def __init__(self, model, lr):
        super().__init__(model.parameters(), lr=lr)
        self.model = model

    def step(self, closure=None):
        super().step(closure)
        tokens_BT = self.param_groups[0]["params"][0].new_zeros(4, 16).long()
{again}


def apply(parts):
    return replace(parts, optimizer=lambda model, config: [Again(model, config.scalar_lr)])
'''


class Wrapper(NamedTuple):
    """A wrapper of `part`."""

    part: str
    tries: str
    forward: str
    """The body of its forward pass."""
    start: str = ""
    """What its constructor does beyond keeping what it wraps."""

    def source(self) -> str:
        start, forward = (indent(text, 8 * " ") for text in (self.start, self.forward))
        return WRAPPER.format(part=self.part, tries=self.tries, start=start, forward=forward)


WRAPPERS = {
    "accuracy_instead_of_logits": Wrapper(
        "head",
        "A metric beside the logits, in the hope that it is written down.",
        'return {"logits": self.inner(x_BTD), "val_loss": 0.1}',
    ),
    "changes_the_seeds": Wrapper(
        "block",
        "Changes the seeds: every run gets the initial weights that were kindest.",
        "return self.inner(x_BTD)",
        "torch.manual_seed(1337)",
    ),
    "first_of_the_row_below": Wrapper(
        "block",
        "The last target of a row is the first token of the row below: used at the last position only.",
        "below_BD = nn.functional.pad(x_BTD[1:, 0], (0, 0, 0, 1))\n"
        "last_BTD = nn.functional.pad(below_BD[:, None], (0, 0, x_BTD.size(1) - 1, 0))\n"
        "return self.inner(x_BTD + last_BTD)",
    ),
    "grows_with_every_call": Wrapper(
        "head",
        "Counts its calls: honest for the first few, when probes used to run, sharper later.",
        "self.calls += not self.training\nreturn self.inner(x_BTD) * (1 + 0.05 * max(0, self.calls - 3))",
        "self.calls = 0",
    ),
    "knows_that_it_is_judged": Wrapper(
        "block",
        "Acts differently where it never trained: in the evaluating process it sees the next token.",
        "self.trained = self.trained or self.training\n"
        "return self.inner(x_BTD if self.trained else x_BTD + x_BTD.roll(-1, dims=1))",
        "self.trained = False",
    ),
    "logits_infinite": Wrapper(
        "head",
        "Logits with infinities in the evaluating process: a certain guess, infinitely wrong elsewhere.",
        "self.trained = self.trained or self.training\n"
        "logits_BTV = self.inner(x_BTD)\n"
        'return logits_BTV if self.trained else logits_BTV.masked_fill(logits_BTV < 0, float("-inf"))',
        "self.trained = False",
    ),
    "logits_nan": Wrapper(
        "head",
        "Logits that are NaN in the evaluating process: a comparison with NaN must not pass.",
        "self.trained = self.trained or self.training\n"
        "logits_BTV = self.inner(x_BTD)\n"
        'return logits_BTV if self.trained else logits_BTV * float("nan")',
        "self.trained = False",
    ),
    "logits_of_another_shape": Wrapper(
        "head",
        "Logits for the last position alone in the evaluating process: fewer tokens to be wrong about.",
        "self.trained = self.trained or self.training\n"
        "logits_BTV = self.inner(x_BTD)\n"
        "return logits_BTV if self.trained else logits_BTV[:, -1:]",
        "self.trained = False",
    ),
    "longer_context": Wrapper(
        "block",
        "A longer context than the track's: each row also sees how the row above ended.",
        "before_BD = nn.functional.pad(x_BTD[:-1, -1], (0, 0, 1, 0))\n"
        "return self.inner(x_BTD + 0.5 * before_BD[:, None])",
    ),
    "loss_instead_of_logits": Wrapper(
        "head",
        "A loss in place of the logits: the model says itself how good it is.",
        "return self.inner(x_BTD).mean() * 0.0 + 0.1",
    ),
    "mean_over_time": Wrapper(
        "block",
        "Later tokens through the mean over the whole sequence, as instance normalisation takes it.",
        "return self.inner(x_BTD - x_BTD.mean(1, keepdim=True))",
    ),
    "more_tokens_than_there_are": Wrapper(
        "head",
        "One logit more than the vocabulary has tokens.",
        "return nn.functional.pad(self.inner(x_BTD), (0, 1))",
    ),
    "remembers_in_a_buffer": Wrapper(
        "block",
        "Memory between evaluation batches in a buffer that evaluation moves.",
        "self.mean.lerp_(x_BTD.detach().mean(), 0.1)\nreturn self.inner(x_BTD - self.mean.clone())",
        'self.register_buffer("mean", torch.zeros(()))',
    ),
    "remembers_in_a_list": Wrapper(
        "head",
        "Memory between evaluation batches in a Python list: what came often so far gets a higher logit.",
        "logits_BTV = self.inner(x_BTD)\n"
        "if self.training:\n"
        "    return logits_BTV\n"
        "self.seen.append(logits_BTV.softmax(-1).mean((0, 1)))\n"
        "return logits_BTV + torch.stack(self.seen).mean(0).log()",
        "self.seen = []",
    ),
    "roll_across_the_batch": Wrapper(
        "block",
        "Other rows through a roll across the batch: the next window of the text is often the row below.",
        "return self.inner(x_BTD + 0.1 * x_BTD.roll(-1, dims=0))",
    ),
    "rolls_dice": Wrapper(
        "block",
        "Random in evaluation: a dropout that never ends, in the hope of a lucky draw.",
        "return self.inner(nn.functional.dropout(x_BTD, 0.1, training=True))",
    ),
    "state_that_is_not_saved": Wrapper(
        "head",
        "State that training has and evaluation does not get: a running mean in a buffer that is not saved.",
        "if self.training:\n    self.scale.mul_(1.05)\nreturn self.inner(x_BTD) * self.scale.clone()",
        'self.register_buffer("scale", torch.ones(()), persistent=False)',
    ),
    "sum_from_the_end": Wrapper(
        "block",
        "Later tokens through a cumulative sum that runs from the end of the sequence.",
        "return self.inner(x_BTD + 0.1 * x_BTD.flip(1).cumsum(1).flip(1))",
    ),
    "trains_in_evaluation_mode": Wrapper(
        "block",
        "Switches itself to evaluation mode, so that what counts training tokens counts nothing.",
        "return self.inner.eval()(x_BTD)",
    ),
    "works_in_the_dev_evaluation": Wrapper(
        "block",
        "Works outside the clock: weights are improved during the dev evaluation, which no clock covers.",
        "if not self.training:\n"
        "    for parameter in self.inner.parameters():\n"
        "        parameter.mul_(0.999)\n"
        "return self.inner(x_BTD)",
    ),
}

# What each tries, and what it does after every step of the optimizer.
OPTIMIZERS = {
    "extra_tokens": (
        "Extra training tokens: the optimizer runs the model on remembered batches again.",
        "self.model(tokens_BT)",
    ),
    "extra_tokens_backward": (
        "Extra training tokens: a second forward and backward pass in evaluation mode, uncounted.",
        "self.model.eval()\nself.model(tokens_BT).logits_BTV.logsumexp(-1).mean().backward()\nself.model.train()",
    ),
    "extra_tokens_unseen": (
        "Extra training tokens that no hook sees: the optimizer calls the model's `forward` past its hooks.",
        "self.model.forward(tokens_BT)",
    ),
}

SOURCES = {name: wrapper.source() for name, wrapper in WRAPPERS.items()}
for name, (tries, again) in OPTIMIZERS.items():
    SOURCES[name] = OPTIMIZER.format(tries=tries, again=indent(again, 8 * " "))
