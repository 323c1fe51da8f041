"""Measures a candidate on other sizes of its track: the same task with a smaller or larger model and budget.

If the track's rule names such sizes, a candidate that is shown to lose on one of them cannot become the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from harness.board.submission import SIZE_PAIRS, ArmName, OtherSize, size_file, size_gain
from harness.core.errors import LlmbenchError, RejectedError
from harness.core.project import read_bytes, sha256
from harness.core.runs import FinishedRun, dump_json
from harness.core.terminal import patiently
from harness.core.track import load_track
from harness.data.prepare import prepare
from harness.lab.arms import Arms
from harness.lab.store import RunStore
from harness.rule.replication import OWN_FAILURES


@dataclass(frozen=True)
class OtherSizes:
    """The results of a candidate on other sizes of its track."""

    results: dict[str, OtherSize] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """The files with the runs behind the results: path in the submission's folder -> content."""

    @property
    def lost(self) -> list[str]:
        """The sizes on which the candidate is shown to lose, each with the gain and the upper end of its interval."""
        lost = {name: one for name, one in self.results.items() if one.loses}
        return [f"{name} (gain {one.gain:+.4f}, 90 % interval up to {one.high:+.4f})" for name, one in lost.items()]


NO_SIZES = OtherSizes()


def measure_sizes(
    store: RunStore, arms: Arms, asked: Mapping[str, str], tell: Callable[[str], None], *, negative: bool
) -> OtherSizes:
    """Train the missing runs on the sizes in `asked`, and return the results.

    `asked` maps the name of each size's track to its required digest. Raises RejectedError if the candidate is shown to
    lose and is not submitted as a negative result (`negative`), or if one of its runs has no score. Raises
    LlmbenchError if a run of the record has no score, or if a track has another digest than required.
    """
    found = OtherSizes()
    for name, digest in asked.items():
        track = load_track(store.project, name)
        if track.digest != digest:
            new = f'holds_on = {{ {name} = "{track.digest}" }}'
            raise LlmbenchError(
                f"tracks/{name}.toml is not the version that `holds_on` in tracks/{store.track.name}.toml names; "
                f"restore tracks/{name}.toml, or write {new} into tracks/{store.track.name}.toml, which makes a new "
                f"version of {store.track.name}"
            )
        tell(
            f"training {SIZE_PAIRS} pairs on {name}, because a record of {store.track.name} must not be shown to lose "
            f"on {name}"
        )
        runs = _pairs(replace(store, track=track, observe=lambda run, event: None), arms)
        gain = size_gain(runs["record"], runs["candidate"])
        tell(f"{name}: gain {gain.value:+.4f} nats, 90 % interval {gain.low:+.4f} to {gain.high:+.4f}")
        found.files[f"sizes/{name}/track.toml"] = read_bytes(store.project.tracks / f"{name}.toml")
        digests = dict[ArmName, dict[str, str]]()
        for arm, made in runs.items():
            texts = {run.seed: dump_json(run).encode() for run in made}
            found.files.update((size_file(name, arm, seed), text) for seed, text in texts.items())
            digests[arm] = {str(seed): sha256(text) for seed, text in texts.items()}
        found.results[name] = OtherSize(runs=digests, gain=gain.value, low=gain.low, high=gain.high)
    if found.lost and not negative:
        raise RejectedError(
            f"{arms.candidate} beats the record on {store.track.name}, but is shown to have a higher val loss than "
            f"the record on {' and '.join(found.lost)}, so it cannot become the record; to submit it as a negative "
            f"result, add --negative"
        )
    return found


def _pairs(store: RunStore, arms: Arms) -> dict[ArmName, list[FinishedRun]]:
    prepare(store.track)
    recipes: dict[ArmName, str] = {"record": arms.record, "candidate": arms.candidate}
    wanted = [store.identify(one, seed) for seed in store.track.seeds[:SIZE_PAIRS] for one in recipes.values()]
    runs: dict[ArmName, list[FinishedRun]] = {"record": [], "candidate": []}
    with patiently(f"training on {store.track.name}"):
        made = store.make(wanted)
    for run in made:
        if not isinstance(run, FinishedRun):
            own = run.recipe == arms.candidate and run.status in OWN_FAILURES
            kind = RejectedError if own else LlmbenchError
            raise kind(f"{run.recipe} has no val loss on {run.track} with seed {run.seed}: {run.reason}")
        runs["candidate" if run.recipe == arms.candidate else "record"].append(run)
    return runs
