"""What a track of a billion tokens takes of memory: to hash, to batch, to evaluate in part. Linux.

Each question is asked in a process of its own about one generated array (uint16, made here, deleted at the end), and
answered with the anonymous memory that it added: pages of the array that the kernel keeps are not the process's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.data.batches import Batches, eval_batches  # noqa: E402
from harness.data.cache import file_digest  # noqa: E402

SEQ_LEN, SEQUENCES = 1024, 32


def anonymous_mib() -> float:
    """Memory of this process that is no file's, at its present; MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def hash_it(path: Path) -> None:
    file_digest(path)


def batch_it(path: Path) -> None:
    """A hundred batches out of the first epoch, and one of the second."""
    batches = Batches(np.memmap(path, dtype="<u2", mode="r"), SEQ_LEN, SEQUENCES, seed=0)
    held.append(batches)
    for step in (*range(100), batches.num_windows // SEQUENCES + 1):
        batches.batch(step)


def evaluate_it(path: Path) -> None:
    """The batches of a val split of ten million tokens, as the evaluator holds them."""
    tokens_N = np.memmap(path, dtype="<u2", mode="r")[:10_000_000]
    held.append(eval_batches(tokens_N, SEQ_LEN, SEQUENCES))


held: list[object] = []
QUESTIONS: dict[str, Callable[[Path], None]] = {
    "sha256 of the array": hash_it,
    "batches of two epochs": batch_it,
    "a val split of 10M tokens": evaluate_it,
}


def answer(name: str, path: Path) -> None:
    """For the child process: seconds and MiB."""
    before, begun = anonymous_mib(), time.perf_counter()
    QUESTIONS[name](path)
    print(f"{time.perf_counter() - begun:.1f} s | {anonymous_mib() - before:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=1_000_000_000)
    parser.add_argument("--answer", nargs=2, metavar=("QUESTION", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(options.answer[0], Path(options.answer[1]))
        return
    with tempfile.TemporaryDirectory(prefix="llmbench-memory-") as scratch:
        path, chunk = Path(scratch) / "train.bin", np.random.default_rng(0).integers(0, 50_000, 1_000_000, dtype="<u2")
        with path.open("wb") as file:
            for _ in range(options.tokens // len(chunk)):
                chunk.tofile(file)
        print(f"| {options.tokens:,} tokens, {path.stat().st_size / 2**20:,.0f} MiB on disk | took | added |")
        print("|---|---:|---:|")
        for name in QUESTIONS:
            command = [sys.executable, __file__, "--answer", name, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"| {name} | {done.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    main()
