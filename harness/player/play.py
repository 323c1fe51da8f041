"""The program of a player: it runs the variant's code and answers the referee's requests, one after the other.

Training, evaluation on dev and val, and probes use the same program with different requests.
Shapes: B sequences, T positions, V vocabulary, E experts.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed
from harness.core.runs import ExpertLayer
from harness.player.device import open_device, set_up_torch, start_device
from harness.player.protocol import (
    ANSWER,
    DONE,
    FAILED,
    LONGEST_REASON,
    REQUEST,
    Assignment,
    Built,
    Failure,
    Report,
    RuleBrokenError,
    TensorSpec,
    Verb,
)
from harness.player.ranks import Ranks, join, open_store
from harness.player.train import Training, warm_up
from harness.variants.recipe import Recipe, apply_recipe, draw_parameters
from harness.variants.source import VariantSource
from models.moe import MixtureOfExperts

NOISE = 0.1  # standard deviation of the noise that is added to untrained weights


def play(requests: Connection, answers: Connection, program: Program | None = None) -> None:
    """Answer requests until one fails. Raises EOFError when the referee closes the pipe."""
    program = program or Program()
    while True:
        verb, rows, columns, number = REQUEST.unpack(requests.recv_bytes(REQUEST.size))
        body = requests.recv_bytes()
        failure = None
        try:
            answer = program.answer(Verb(verb), body, rows, columns, number)
        except RuleBrokenError as error:
            failure = _failure("invalid", str(error))
        except LlmbenchError as error:
            failure = _failure("refused", str(error))
        except BaseException as error:  # noqa: BLE001  a variant's code may raise anything
            traceback.print_exc()
            failure = _failure("error", f"{type(error).__name__}: {error}")
        if failure is not None:
            answers.send_bytes(ANSWER.pack(FAILED))
            answers.send_bytes(failure.model_dump_json().encode())
            return
        answers.send_bytes(ANSWER.pack(DONE))
        answers.send_bytes(answer)


class Program:
    """The state of a player: one model, and the state of the training if the player trains this model."""

    model: nn.Module
    training: Training | None = None

    def answer(self, verb: Verb, body: bytes, rows: int, columns: int, number: int) -> Any:
        """Do what one request asks, and return the body of the answer."""
        if verb is Verb.STEP:
            return self._training.step(self._tokens(body, rows, columns), number)
        if verb is Verb.SCORE:
            return self._score(self._tokens(body, rows, columns))
        return self._others[verb](body)

    @property
    def _others(self) -> dict[Verb, Callable[[bytes], Any]]:
        return {
            Verb.BUILD: self._build,
            Verb.JOIN: self._join,
            Verb.LOAD: self._load,
            Verb.SNAPSHOT: lambda _: self._weights(),
            Verb.SAVE: lambda _: self._training.save(),
            Verb.RESUME: self._resume,
            Verb.REPORT: lambda _: self._report(),
        }

    @property
    def _training(self) -> Training:
        if self.training is None:
            raise LlmbenchError("this process was started to evaluate a model, not to train one")
        return self.training

    def _build(self, body: bytes) -> bytes:
        assignment = Assignment.model_validate_json(body)
        track = assignment.track
        set_up_torch(track)
        start_device(track, assignment.rank)
        self.assignment, self.device = assignment, open_device(track)
        recipe = self.recipe()
        self.model = recipe.build()
        if assignment.start != "empty":
            draw_parameters(self.model, assignment.seed)
        if assignment.start == "noisy":
            _add_noise(self.model)
        self.model.to(self.device.name)
        if assignment.trains:
            self._prepare_training(recipe)
        else:
            self.model.eval()
        named = dict(self.model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        """Address of a tensor -> the first name that it has."""
        tensors = []
        for name, tensor in self.model.state_dict().items():
            owner = first.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
            tensors.append(
                TensorSpec(
                    name=name,
                    dtype=_dtype(tensor),
                    shape=tuple(tensor.shape),
                    is_parameter=name in named,
                    tied_to=None if owner == name else owner,
                )
            )
        self.tensors = tuple(tensors)
        self._watch_experts()
        batches = self.training.batches if self.training is not None else None
        return Built(tensors=self.tensors, batches=batches).model_dump_json().encode()

    def recipe(self) -> Recipe:
        """The recipe to build. Calling this runs the variants' code."""
        track = self.assignment.track
        sources = {name: VariantSource(name, Path(f"{name}.py"), text) for name, text in self.assignment.sources}
        return apply_recipe(sources, track.model, track.optim, self.assignment.separator)

    def _prepare_training(self, recipe: Recipe) -> None:
        assignment, track = self.assignment, self.assignment.track
        folder = Path(assignment.compiled) if assignment.compiled is not None else None
        if folder is not None:
            from harness.player.compiler import compile_forward, forbid_compiling, keep_answers

            compile_forward(self.model, folder, compiles=assignment.compiles)
        ranks = Ranks(assignment.rank, track.num_processes)
        self.training = Training(assignment, recipe, self.model, self.device, ranks)
        # A GPU or a compiler needs a warm-up with a full batch. On a CPU one sequence shows that the model works.
        rows = assignment.rows if folder is not None or track.device != "cpu" else 1
        warm_up(self.model, self.device, (rows, track.budget.seq_len + 1), track.model.vocab_size)
        if folder is not None:
            forbid_compiling()
            if assignment.compiles:
                keep_answers(folder)

    def _join(self, body: bytes) -> bytes:
        """Connect this player with the other ranks (processes) of its run.

        The first rank gets two JOIN requests: at the first it opens the store and answers with the port, at the second
        it connects.
        """
        training, port = self._training, json.loads(body)
        if port is None:
            self.store = open_store(self.assignment.track, None)
            return json.dumps(self.store.port).encode()
        if training.ranks.rank > 0:
            self.store = open_store(self.assignment.track, port)
        join(self.assignment.track, training.ranks, self.store)
        training.together = training.ranks.spread(self.model)
        return b"null"

    def _tokens(self, body: bytes, rows: int, columns: int) -> Tensor:
        tokens = np.frombuffer(body, dtype="<i8").reshape(rows, columns)
        return self.device.tensor(tokens.copy())

    def _score(self, tokens_BT: Tensor) -> memoryview:
        self.model.eval()
        torch.manual_seed(derive_seed("evaluation"))
        with torch.no_grad():
            logits_BTV = self.model(tokens_BT)[0].float().contiguous().cpu()
        if self.training is not None:
            self.model.train()
        expected = (*tokens_BT.shape, self.assignment.track.model.vocab_size)
        if tuple(logits_BTV.shape) != expected:
            raise RuleBrokenError(f"shape: the logits have shape {tuple(logits_BTV.shape)}, but must have {expected}")
        self._count_experts(tokens_BT.numel())
        return memoryview(logits_BTV.numpy()).cast("B")

    def _weights(self) -> bytes:
        state = self.model.state_dict()
        found = [(name, _dtype(tensor), tuple(tensor.shape)) for name, tensor in state.items()]
        if found != [(spec.name, spec.dtype, spec.shape) for spec in self.tensors]:
            raise RuleBrokenError(
                "weights: names, shapes or types of the weights changed during training; do not change them"
            )
        # The bytes of each tensor; tied ones come twice.
        rows = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() for tensor in state.values()]
        return b"".join(row.tobytes() for row in rows)

    def _load(self, body: bytes) -> bytes:
        state, offset = {}, 0
        for spec in self.tensors:
            part = torch.empty(0, dtype=torch.uint8)
            if spec.num_bytes:
                part = torch.frombuffer(bytearray(body[offset : offset + spec.num_bytes]), dtype=torch.uint8)
            state[spec.name] = part.view(getattr(torch, spec.dtype)).reshape(spec.shape)
            offset += spec.num_bytes
        self.model.load_state_dict(state, strict=True)
        self._watch_experts()
        return b""

    def _resume(self, body: bytes) -> bytes:
        self._training.resume(body)
        return b""

    def _watch_experts(self) -> None:
        self.layers = [module for module in self.model.modules() if isinstance(module, MixtureOfExperts)]
        self.counts_E: list[Any] = [0] * len(self.layers)
        self.balances, self.scored = [0.0] * len(self.layers), 0

    def _count_experts(self, num_tokens: int) -> None:
        for place, layer in enumerate(self.layers):
            self.counts_E[place] = self.counts_E[place] + layer.count_E
            self.balances[place] += layer.balance_loss.item() * num_tokens
        self.scored += num_tokens

    def _report(self) -> bytes:
        """JSON of `Report`: the peak memory, and how each router distributed the evaluated tokens over its experts."""
        experts = None
        if self.layers and self.scored:
            experts = tuple(
                ExpertLayer(load=tuple((count_E / count_E.sum()).tolist()), balance=balance / self.scored)
                for count_E, balance in zip(self.counts_E, self.balances, strict=True)
            )
        return Report(peak_memory_mib=self.device.peak_memory_mib(), experts=experts).model_dump_json().encode()


def _failure(status: Literal["refused", "invalid", "error"], reason: str) -> Failure:
    return Failure(status=status, reason=reason[:LONGEST_REASON])


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _add_noise(model: nn.Module) -> None:
    torch.manual_seed(derive_seed("fresh"))
    with torch.no_grad():
        for parameter in model.parameters():  # matrices that start at zero would hide a leak
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)
