"""What `--executor ray` promises, on a real cluster of this machine: same bits as local, nothing lost with a worker.

It starts a Ray cluster of its own (a head that runs nothing, two machines of one core), trains `smoke` on it and
meanwhile kills what may die. Each case must end with the weights, losses and curve of the undisturbed local run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.kills import descendants  # noqa: E402

PATIENCE_S = 300.0


@dataclass
class Box:
    """A copy of the checkout, from which the commands come, and the machine's processes."""

    root: Path
    address: str

    def copy(self, name: str) -> Box:
        """An empty copy that shares nothing but the cluster: a comment in a source keeps other checkpoints out."""
        root = self.root / name
        for folder in ("harness", "models", "tracks"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        with (root / "harness" / "__init__.py").open("a") as file:
            file.write(f"# {self.root.name} {name}\n")
        return Box(root, self.address)

    def start(self, executor: str, pairs: int = 1) -> subprocess.Popen[str]:
        command = ["run", "baseline", "--track", "smoke", "--pairs", str(pairs), "--executor", executor]
        environment = {**os.environ, "PYTHONPATH": str(self.root), "RAY_ADDRESS": self.address, "NO_COLOR": "1"}
        with (self.root / "stderr").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "harness.cli", *command],
                cwd=self.root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def said(self) -> str:
        return (self.root / "stderr").read_text()

    def finish(self, process: subprocess.Popen[str]) -> None:
        process.communicate(timeout=PATIENCE_S)
        if process.returncode != 0:
            raise RuntimeError(f"the command ended with {process.returncode}: {self.said[-2000:]}")

    def bits(self) -> dict[int, Any]:
        """Seed -> everything of a run that must not move."""
        found = {}
        for path in self.root.glob("runs/smoke/base/*/seed-*/run.json"):
            run = json.loads(path.read_text())
            curve = [
                (point["step"], point["train_loss_nats"], point["dev_loss_nats"]) for point in run["training"]["curve"]
            ]
            found[run["seed"]] = run["training"]["weights_sha256"], run["evaluation"]["nats"], curve
        return found


def below(parent: int, words: str) -> list[int]:
    """The descendants of `parent` whose command line holds `words`."""
    return [process_id for process_id, command in descendants(parent).items() if words in command]


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError("waited too long")
        time.sleep(0.05)
    return found


class Machines:
    """The cluster's two machines; one that was killed is replaced."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.cluster.wait_for_nodes()

    def raylet(self, node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def training(self, words: str = "multiprocessing.forkserver") -> tuple[Any, int] | None:
        """(machine, process) of a run that trains: of all that are told by `words` the youngest, which trains."""
        for node in self.nodes:
            if found := below(self.raylet(node), words):
                return node, max(found)
        return None

    def remove(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)
        self.nodes.append(self.cluster.add_node(num_cpus=1))


def killed(words: str) -> Callable[[Box, Machines], str]:
    """A case: SIGKILL for the process whose command line holds `words`, while it trains."""

    def case(box: Box, machines: Machines) -> str:
        process = box.start("ray")
        wait_for(lambda: "training" in box.said)
        found = wait_for(lambda: machines.training(words))
        os.kill(found[1], signal.SIGKILL)
        box.finish(process)
        return next(line for line in box.said.splitlines() if "it starts again" in line)

    return case


def machine_lost(box: Box, machines: Machines) -> str:
    process = box.start("ray")
    wait_for(lambda: "training" in box.said)
    node, _ = wait_for(machines.training)
    machines.remove(node)
    box.finish(process)
    return next(line for line in box.said.splitlines() if "it starts again" in line)


def interrupted(box: Box, machines: Machines) -> str:
    """Ctrl-C ends the remote work too; the same command goes on."""
    process = box.start("ray", pairs=2)
    wait_for(lambda: box.said.count(": training") == 2)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    if process.returncode != 130:
        raise RuntimeError(f"Ctrl-C ended it with {process.returncode}: {box.said[-2000:]}")
    wait_for(lambda: not machines.training("harness."))
    gone_s = time.monotonic() - begun
    box.finish(box.start("ray", pairs=2))
    return f"all processes gone after {gone_s:.1f} s; the same command then finished both runs"


def undisturbed(box: Box, machines: Machines) -> str:
    begun = time.monotonic()
    box.finish(box.start("ray", pairs=2))
    return f"two runs in {time.monotonic() - begun:.1f} s"


CASES: dict[str, Callable[[Box, Machines], str]] = {
    "undisturbed": undisturbed,
    "Ray's worker killed": killed("ray::run_on_node"),
    "a player killed": killed("multiprocessing.forkserver"),
    "a machine killed": machine_lost,
    "Ctrl-C": interrupted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=CASES, action="append", help="Only these. Default: all.")
    options = parser.parse_args()
    machines, failed = Machines(), False
    with tempfile.TemporaryDirectory(prefix="llmbench-cluster-") as scratch:
        boxes = Box(Path(scratch), machines.cluster.address)
        local = boxes.copy("local")
        begun = time.monotonic()
        local.finish(local.start("local", pairs=2))
        print(f"local: two runs in {time.monotonic() - begun:.1f} s", flush=True)
        wanted = local.bits()
        for place, name in enumerate(options.case or CASES):
            box = boxes.copy(str(place))
            detail, found = CASES[name](box, machines), box.bits()
            same = bool(found) and all(wanted[seed] == bits for seed, bits in found.items())
            failed |= not same
            print(f"{'same bits' if same else 'OTHER BITS':11} {name}: {detail}", flush=True)
    machines.cluster.shutdown()
    sys.exit(failed)


if __name__ == "__main__":
    main()
