"""The sizes of a track, and the parts of the report of a ladder, a study that measures ideas on several sizes."""

from __future__ import annotations

from pydantic import Field

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.schema import Count, Line, Positive, Strict, TrackName, VariantName
from harness.core.track import Track, load_track, track_names

SUFFIXES = ("-s", "", "-l")
FLOPS_PER_PARAM = 6  # forward and backward pass, per multiplied parameter and token (arXiv:2001.08361, section 2.1)


class Band(Strict):
    """A number with the ends of its 90 % confidence interval."""

    value: float
    low: float
    high: float


class RungFacts(Strict):
    """One size of a track, and the results on it of the recipe that all ideas are compared with."""

    track: TrackName
    num_params: Positive
    tokens: Positive
    compute: float
    """Floating-point operations of a run of the base, without those for attention scores."""
    val_loss: float
    """Mean val loss over the recipe's runs, in nats per token."""
    runs: Count
    noise: float | None
    """Standard deviation of a pair's gain, median over the ideas, in nats per token; None if no idea has two pairs."""


class Step(Strict):
    """One idea on one size."""

    track: TrackName
    pairs: Count
    gain: Band | None
    """Gain in nats per token; None if it was not measured."""
    multiple: Band | None = None
    """The base needs this many times the compute for the idea's loss; None if the base's losses allow no estimate."""
    reason: Line | None = None
    """Why the gain was not measured; None if it was."""
    predicted: Band | None = None
    """Forecast of the mean gain of these pairs, made from smaller sizes before this size was trained."""
    predicted_on: str | None = None
    """Date of that forecast."""


class Climb(Strict):
    """The results of one idea on all sizes."""

    name: VariantName
    steps: tuple[Step, ...]
    """The results on each size, from the smallest to the largest."""
    sign_holds: bool | None
    """Whether the gain has the same sign on all sizes; None if an interval contains zero."""
    turns: bool = False
    """Whether the idea is shown to help on one size and to hurt on another."""
    slope: Band | None
    """Change of the gain in nats per token when compute grows by a factor of ten; None for fewer than two sizes."""
    extrapolated: Band | None
    """The gain, extrapolated with this slope to ten times the compute of the largest size."""


class Agreement(Strict):
    """How well the ideas' results on one size predict their results on the next larger size."""

    smaller: TrackName
    larger: TrackName
    ideas: Count
    """Number of ideas that were measured on both sizes."""
    order: Band
    """Of all pairs of ideas, the share in which the same idea has the larger gain on both sizes."""
    verdicts: Band
    """Share of the ideas about which both sizes show the same: that an idea helps, that it hurts, or neither."""


class Coverage(Strict):
    """How close the forecasts for one size were to the gains that were then measured on it."""

    track: TrackName
    inside: Band
    """Share of the measured gains that lie in the interval of their forecast."""
    ideas: Count
    error: float
    """Median of the gain minus its forecast, in nats per token."""


class Ladder(Strict):
    """The report of a ladder: the results of several ideas on all sizes of a track."""

    beside: str
    """The recipe that all ideas are compared with."""
    rungs: tuple[RungFacts, ...]
    ideas: tuple[Climb, ...]
    """The ideas: the largest gain on the largest size first, ideas without such a gain last."""
    agreement: tuple[Agreement, ...]
    """One entry for each size and the next larger one, if at least two ideas were measured on both."""
    coverage: tuple[Coverage, ...]
    """One entry for each size with forecasts and runs."""


class Forecast(Strict):
    """A forecast of the ideas' gains on one size, made from smaller sizes before this size is trained."""

    schema_version: Positive = 1
    track: TrackName
    """Track of the size that is forecast."""
    training_digest: str
    """Digest of everything in that track's file on which a run depends."""
    date: str
    """UTC day on which the forecast was written."""
    beside: str
    pairs: Positive
    """Number of pairs whose mean gain is forecast."""
    rungs: tuple[TrackName, ...]
    """The sizes from which the forecast was made."""
    ideas: dict[VariantName, Band] = Field(default_factory=dict)


def rungs_of(project: Project, name: str) -> list[Track]:
    """The sizes of a track, the smallest first. Raises LlmbenchError if the track has only one size."""
    base = next((name.removesuffix(end) for end in SUFFIXES if end and name.endswith(end)), name)
    there = set(track_names(project))
    found = [load_track(project, f"{base}{end}") for end in SUFFIXES if f"{base}{end}" in there]
    if len(found) < 2:
        raise LlmbenchError(
            f"{name} has no other size (a track with a smaller or larger model), which a ladder needs; add a track "
            f"{base}-s or {base}-l"
        )
    return found


def compute_of(track: Track) -> float:
    """Floating-point operations of a run of the base: 6 for each token and each parameter in a matrix product."""
    model = track.model
    attention = 2 * model.dim**2 + 2 * model.dim**2 * model.num_kv_heads // model.num_heads
    feed_forward = 2 * model.dim * model.ffn_dim * (model.top_k if model.num_experts else 1)
    params = model.vocab_size * model.dim + model.num_layers * (attention + feed_forward)
    return float(FLOPS_PER_PARAM * params * track.budget.tokens)
