"""Chooses the variants that a campaign judges."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.project import Project
from harness.core.track import load_track, track_names
from harness.variants.source import read_variant, variant_names


def campaign_names(project: Project, names: Sequence[str], topic: str | None) -> list[str]:
    """The variants in `names`, or those of `topic`; without both, all except placebos (variants without an effect).

    Raises LlmbenchError for an unknown name or topic, and if there is no variant.
    """
    if names and topic is not None:
        raise LlmbenchError("give either names of variants or --topic, not names and --topic together")
    if names:
        for unknown in sorted({*names} - {*variant_names(project)}):
            read_variant(project, unknown)  # raises an error that suggests the most similar name
        return [*dict.fromkeys(names)]
    placebos = set[str]()
    for track in track_names(project):
        with suppress(LlmbenchError):  # a track that is not valid is reported by the command that needs it
            placebos.add(load_track(project, track).rule.noise_variant)
    found = [name for name in variant_names(project) if name not in placebos]
    if topic is not None:
        topics = dict[str, str | None]()
        for name in found:
            with suppress(LlmbenchError):  # a file that is not valid has no topic
                topics[name] = read_variant(project, name).notes.topic
        known = sorted({one for one in topics.values() if one is not None})
        if topic not in known:
            there = f"topics are {', '.join(known)}" if known else "no variant names a topic in its docstring"
            raise LlmbenchError(f"no variant has the topic '{topic}'{did_you_mean(topic, known)}; {there}")
        found = [name for name in found if topics.get(name) == topic]
    if not found:
        raise LlmbenchError("there is no variant to judge; write one as models/variants/NAME.py")
    return found
