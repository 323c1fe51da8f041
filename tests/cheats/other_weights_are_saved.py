"""Weights that are not what was trained: `state_dict` saves others."""

from dataclasses import replace

from models.gpt import Head


class Swapped(Head):
    def state_dict(self, *arguments, **options):
        saved = super().state_dict(*arguments, **options)
        for name in saved:
            if name.startswith(options.get("prefix", "")):
                saved[name] = saved[name] * 1.5
        return saved


def apply(parts):
    return replace(parts, head=lambda final: Swapped(final.model))
