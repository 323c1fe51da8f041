"""The first seconds of a run and no more: is there a model, does it pass tokens on and back, is it all optimized?

Asked before a contest trains its record for minutes, only to learn that the candidate cannot start.
"""

from __future__ import annotations

from harness.data.batches import Batches
from harness.data.cache import open_split
from harness.player.device import open_device, set_up_torch
from harness.player.job import Job
from harness.player.process import Emit
from harness.player.ranks import Ranks
from harness.player.train import build_optimizers, warm_up
from harness.variants.recipe import draw_parameters


def work(job: Job, emit: Emit) -> None:
    """Build one job's model as training would; answer with `rehearsed`, or fail as training would."""
    track = job.load_track()
    job.confine(track, ("train",), writes=True)
    recipe = job.load_recipe(track)
    set_up_torch(track)
    device, budget = open_device(track), track.budget
    model = recipe.build()
    draw_parameters(model, job.seed)
    model.to(device.name)
    build_optimizers(recipe, model)
    batch_BT1 = Batches(open_split(track, "train"), budget.seq_len, budget.batch_sequences, job.seed).batch(0)
    batch_BT1 = Ranks(size=track.num_processes).share(batch_BT1)
    warm_up(model, device, batch_BT1, track.model.vocab_size)
    emit({"event": "rehearsed"})
