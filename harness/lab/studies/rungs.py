"""The sizes of a track, and what a ladder reports of them and of its ideas."""

from __future__ import annotations

from pydantic import Field

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.schema import Count, Line, Positive, Strict, TrackName, VariantName
from harness.core.track import Track, load_track, track_names

SUFFIXES = ("-s", "", "-l")
FLOPS_PER_PARAM = 6  # forward and backward pass, per multiplied parameter and token (arXiv:2001.08361, section 2.1)


class Band(Strict):
    """A number with the ends of its 90 % interval."""

    value: float
    low: float
    high: float


class RungFacts(Strict):
    """One size, with the runs of the recipe that all ideas are compared with."""

    track: TrackName
    num_params: Positive
    tokens: Positive
    compute: float
    """Floating-point operations of a run of the base, without those of attention scores."""
    val_loss: float
    """Mean over its runs, in nats per token."""
    runs: Count
    noise: float | None
    """Median over the ideas of the standard deviation of a pair's gain, in nats; None where no idea has two pairs."""


class Step(Strict):
    """One idea on one size."""

    track: TrackName
    pairs: Count
    gain: Band | None
    """In nats per token; None if it was not measured."""
    multiple: Band | None = None
    """How many times its compute the base needs for the same loss; None if its curve does not tell."""
    reason: Line | None = None
    """Why it was not measured; None if it was."""
    predicted: Band | None = None
    """Forecast of the mean of these pairs, made from the smaller sizes before this one was trained."""
    predicted_on: str | None = None
    """Date of that forecast."""


class Climb(Strict):
    """One idea over all sizes."""

    name: VariantName
    steps: tuple[Step, ...]
    """From the smallest size to the largest."""
    sign_holds: bool | None
    """Whether the gain has the same sign on all sizes; None if an interval contains zero."""
    slope: Band | None
    """Change of the gain for ten times the compute; None for fewer than two sizes."""
    extrapolated: Band | None
    """The gain extrapolated along this line to ten times the compute of the largest size."""


class Agreement(Strict):
    """How far one size tells what holds on the next."""

    smaller: TrackName
    larger: TrackName
    ideas: Count
    """Ideas that were measured on both."""
    order: Band
    """Share of the pairs of ideas whose gains are in the same order on both."""
    verdicts: Band
    """Share of the ideas of which both sizes say the same: that it helps, that it hurts, or that neither is shown."""


class Coverage(Strict):
    """How good the forecasts for one size were."""

    track: TrackName
    inside: Band
    """Share of the gains that lie in their forecast's interval."""
    ideas: Count
    error: float
    """Median of the gain minus its forecast, in nats per token."""


class Ladder(Strict):
    """Ideas over the sizes of a track."""

    beside: str
    """The recipe that all ideas are compared with."""
    rungs: tuple[RungFacts, ...]
    ideas: tuple[Climb, ...]
    """Largest gain on the largest size first, ideas without one last."""
    agreement: tuple[Agreement, ...]
    """From each size to the next, where two ideas or more were measured on both."""
    coverage: tuple[Coverage, ...]
    """For each size with forecasts and runs."""


class Forecast(Strict):
    """A forecast for a larger size from smaller ones, made before it is trained."""

    schema_version: Positive = 1
    track: TrackName
    """Track of the size that is forecast."""
    training_digest: str
    """Digest of that track."""
    date: str
    """UTC day on which it was written."""
    beside: str
    pairs: Positive
    """Pairs whose mean is forecast."""
    rungs: tuple[TrackName, ...]
    """The sizes from which it was made."""
    ideas: dict[VariantName, Band] = Field(default_factory=dict)


def rungs_of(project: Project, name: str) -> list[Track]:
    """The sizes of a track, the smallest first. Raises LlmbenchError if there is only one."""
    base = next((name.removesuffix(end) for end in SUFFIXES if end and name.endswith(end)), name)
    there = set(track_names(project))
    found = [load_track(project, f"{base}{end}") for end in SUFFIXES if f"{base}{end}" in there]
    if len(found) < 2:
        raise LlmbenchError(f"{name} has no other size; a ladder needs a track {base}-s or {base}-l")
    return found


def compute_of(track: Track) -> float:
    """Floating-point operations of a run of the base: 6 per token and parameter of the matrices that it passes."""
    model = track.model
    attention = 2 * model.dim**2 + 2 * model.dim**2 * model.num_kv_heads // model.num_heads
    feed_forward = 2 * model.dim * model.ffn_dim * (model.top_k if model.num_experts else 1)
    params = model.vocab_size * model.dim + model.num_layers * (attention + feed_forward)
    return float(FLOPS_PER_PARAM * params * track.budget.tokens)
