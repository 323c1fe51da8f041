"""The metric and the probes, in a process of their own: the only one that opens val.

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from harness.catalog import Recipe
from harness.data import derive_seed, eval_batches, open_split
from harness.job import Emit, Job, draw_parameters, run_worker, set_up_torch
from harness.project import sha256
from harness.results import Evaluation

# Far above what another order of summation moves a float32 logit by, far below what a leak needs to help.
MAX_LOGIT_SHIFT = 1e-4
NUM_CUTS = 8


class ProbeFailedError(Exception):
    """The model breaks a rule that the score depends on; the message starts with the probe's name."""


@torch.no_grad()
def evaluate(model: nn.Module, batches: list[Any], vocab_size: int, num_bytes: int) -> Evaluation:
    """Cross-entropy in float32 from full logits, summed over every predicted token.

    Raises ProbeFailedError where the logits are not one finite distribution a position.
    """
    started = time.perf_counter()
    nats, correct, count = 0.0, 0, 0
    for batch in batches:
        tokens_BT1 = torch.from_numpy(batch)
        targets_BT = tokens_BT1[:, 1:]
        logits_BTV = checked_logits(model, tokens_BT1[:, :-1], vocab_size)
        nats += F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none").double().sum().item()
        correct += int((logits_BTV.argmax(-1) == targets_BT).sum())
        count += targets_BT.numel()
    seconds = time.perf_counter() - started
    return Evaluation(nats=nats, correct=correct, tokens=count, bytes=num_bytes, probes=PROBES, eval_s=seconds)


def checked_logits(model: nn.Module, tokens_BT: Tensor, vocab_size: int) -> Tensor:
    """Float32 logits_BTV. Raises ProbeFailedError where shape or values are not what was agreed."""
    logits_BTV = model(tokens_BT)[0].float()
    if logits_BTV.shape != (*tokens_BT.shape, vocab_size):
        raise ProbeFailedError(f"shape: logits are {tuple(logits_BTV.shape)}, not {(*tokens_BT.shape, vocab_size)}")
    if not bool(torch.isfinite(logits_BTV).all()):
        raise ProbeFailedError("finiteness: a logit is not a finite number")
    return logits_BTV


@torch.no_grad()
def probe_causality(model: nn.Module, tokens_BT: Tensor, vocab_size: int) -> None:
    """Changing the tokens after position t moves no logit at or before t.

    Raises ProbeFailedError otherwise.
    """
    logits_BTV = checked_logits(model, tokens_BT, vocab_size)
    length = tokens_BT.size(1)
    cuts = sorted({1, length - 1, *(length * i // NUM_CUTS for i in range(1, NUM_CUTS))} - {0})
    for cut in cuts:
        changed_BT = tokens_BT.clone()
        step_BT = torch.randint(1, vocab_size, changed_BT[:, cut:].shape)
        changed_BT[:, cut:] = (changed_BT[:, cut:] + step_BT) % vocab_size
        shift = (checked_logits(model, changed_BT, vocab_size) - logits_BTV)[:, :cut].abs().max().item()
        if shift > MAX_LOGIT_SHIFT:
            raise ProbeFailedError(
                f"causality: changing the tokens from position {cut} on moves an earlier logit by {shift:.3g}; "
                f"the model sees the future"
            )


PROBES = ("causality", "shape", "finiteness")


def run_probes(model: nn.Module, tokens_BT: Tensor, vocab_size: int) -> None:
    """All probes that need no val tokens; those named in PROBES but not here run in `checked_logits`."""
    torch.manual_seed(derive_seed("probes"))
    probe_causality(model, tokens_BT, vocab_size)


def fresh_model(recipe: Recipe) -> nn.Module:
    """An untrained model with every parameter random: matrices that start at zero would hide a leak."""
    model = recipe.build().eval()
    draw_parameters(model, seed=0)
    torch.manual_seed(derive_seed("fresh"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def work(job: Job, emit: Emit) -> None:
    """Probe and evaluate one trained job; answer with `evaluated` or `invalid`."""
    track, recipe = job.load()
    set_up_torch(track)
    model = recipe.build().eval()
    weights = (Path(job.folder) / "weights.safetensors").read_bytes()
    model.load_state_dict(load(weights), strict=True)
    torch.manual_seed(derive_seed("probe tokens"))
    vocab_size = track.model.vocab_size
    probe_tokens_BT = torch.randint(vocab_size, (2, track.budget.seq_len))
    try:
        run_probes(fresh_model(recipe), probe_tokens_BT, vocab_size)
        run_probes(model, probe_tokens_BT, vocab_size)
        val = eval_batches(open_split(track, "val"), track.budget.seq_len, track.budget.eval_sequences)
        evaluation = evaluate(model, val, vocab_size, track.data.val.bytes)
    except ProbeFailedError as error:
        emit({"event": "invalid", "reason": str(error)})
    else:
        digest = sha256(weights)
        emit({"event": "evaluated", "evaluation": evaluation.model_dump_json(), "weights_sha256": digest})


if __name__ == "__main__":
    run_worker(work)
