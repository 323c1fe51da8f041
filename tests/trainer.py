"""A trainer of its own kind, which knows nothing of llmbench: losses fall, the seed draws the noise, options break it.

Tests copy it into a folder as train.py. Weights and batches have streams of their own, so that pairs share them.
"""
# ruff: noqa: T201  # a trainer prints

import argparse
import json
import os
import random
import sys
import time

options = argparse.ArgumentParser()
options.add_argument("--seed", type=int, default=int(os.environ.get("TRAINER_SEED", "0")))
options.add_argument("--gain", type=float, default=0.0)
options.add_argument("--arm", default="", help="names a stream of noise")
options.add_argument("--noise", type=float, default=0.004)
options.add_argument("--seconds", type=float, default=0.0)
options.add_argument("--breaks", default="", help="crash, silent, nan, hang, or deaf to its seed")
options.add_argument("--out", default="")
asked = options.parse_args()

with open("started", "a") as started:  # how often it ran
    started.write(f"{asked.seed} {asked.arm}\n")
if asked.breaks == "hang":
    time.sleep(3600)
seed = 7 if asked.breaks == "deaf" else asked.seed
shared, own = random.Random(f"weights {seed}"), random.Random(f"{asked.arm} {asked.gain} {seed}")
start, end = 3 + shared.gauss(0, 0.05), own.gauss(0, asked.noise)
for step in range(5):
    time.sleep(asked.seconds / 5)
    loss = start + 1 / (step + 1) - asked.gain + end
    if asked.breaks == "nan" and step == 4:
        loss = float("nan")
    if asked.breaks != "silent":
        print(f"step {step} val loss {loss:.6f} accuracy {50 - loss:.3f}", flush=True)
if asked.breaks == "crash":
    sys.exit("cannot go on: the widget is loose")
if asked.out:
    with open(os.path.join(asked.out, "log.jsonl"), "w") as log:
        log.write(json.dumps({"eval": {"loss": loss + 1}}) + "\n" + json.dumps({"eval": {"loss": loss}}) + "\n")
print(f"METRIC final_loss={loss:.6f}")
