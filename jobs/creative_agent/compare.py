"""The same training many times over: without hpckit and with it, with three sets of settings.

    python compare.py [--seeds 10] [--spec incident.yaml] [--json results.json]

Without hpckit it is a plain loop: backward, clip_grad_norm_, step. All are judged by the same
validation loss, that of the original weights with a penalty that has a slope everywhere.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RIGHT = (
    "params.cascade={residuals: [0.1, 0.1, 1], bounded: true}",
    "params.penalty={form: tangent, limit: 0.9, floor: 1e-3}",
)
MADE = ("params.loss.correlation=0.1", "params.penalty.limit=0.95", "params.clip.generator=5.0")
SETTINGS: dict[str, tuple[str, ...]] = {
    "as it was": (),
    "the fix that was made": MADE,
    "the right fix": RIGHT,
}
# Steps whose norms are usual.
FIRST = 100


def plain(spec: str, seed: int, changes: Sequence[str]) -> dict[str, Any]:
    """One training by a plain loop, in this process."""
    import torch

    sys.path.insert(0, str(HERE))
    from train import Training

    from hpckit.spec import load_spec

    class Plain(Training):
        progress = False

        def build(self) -> None:
            super().build()
            self.seen: list[tuple[float, str]] = []

        def update(self, optimizer: Any, loss: Any, batches: Sequence[Any]) -> None:
            optimizer.zero_grad(set_to_none=True)
            self._whole(loss(batches[0])).backward()
            name = "generator" if optimizer is self.generator else "discriminator"
            every = [each for group in optimizer.param_groups for each in group["params"]]
            norm = float(torch.nn.utils.clip_grad_norm_(every, self.params["clip"][name]))
            if name == "generator":
                self.seen.append((norm, self.largest()))
            optimizer.step()

        def largest(self) -> str:
            norms = {
                n: p.grad.norm() for n, p in self.model.named_parameters() if p.grad is not None
            }
            return max(norms, key=lambda name: float(norms[name]))

        def validate(self) -> dict[str, float]:
            self.last = super().validate()
            return self.last

    params = dict(load_spec(HERE / spec, tuple(changes), ()).to_json()["params"])
    training = Plain({**params, "seed": seed})
    training.run()
    norms = [norm for norm, _ in training.seen]
    largest = max(norms)
    epoch = len(training.loader)
    return {
        "loss": training.last["loss"],
        "usual": sorted(norms[:FIRST])[FIRST // 2],
        "largest": largest,
        "worst": training.seen[norms.index(largest)][1],
        "epochs": [sum(norms[at : at + epoch]) / epoch for at in range(0, len(norms), epoch)],
    }


def healed(spec: str, seed: int, changes: Sequence[str], root: str) -> dict[str, Any]:
    """One training by `hpckit run`, in a process of its own."""
    hpckit = [sys.executable, "-m", "hpckit"]
    words = [word for each in (f"params.seed={seed}", *changes) for word in ("-s", each)]
    command = [*hpckit, "run", spec, "--root", root, *words]
    quiet = {"cwd": HERE, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "capture_output": True}
    done = subprocess.run(command, **quiet)
    shown = subprocess.run([*hpckit, "show", "--root", root, "--json"], **quiet)
    told = json.loads(shown.stdout)
    norms = largest_norms(Path(told["dir"]))
    metrics = [each["metrics"]["loss"] for each in told["checkpoints"] if "loss" in each["metrics"]]
    return {
        "exit_code": done.returncode,
        "state": told["state"],
        "reason": told["reason"],
        "loss": last_validation(Path(told["dir"])),
        "best": min(metrics, default=None),
        "largest": max(norms),
        "usual": sorted(norms[:FIRST])[FIRST // 2],
        "incidents": [
            {
                key: each[key]
                for key in (
                    "kind",
                    "step",
                    "value",
                    "parameter",
                    "plan",
                    "sentence",
                    "resumed_step",
                    "changed",
                )
            }
            for each in told["incidents"]
        ],
        "dir": told["dir"],
    }


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("attempts/*/readings/*/*.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def largest_norms(folder: Path) -> list[float]:
    """Every norm of the generator that was applied, or held back, in order of time."""
    return [
        float(row["grad/norm/generator"]) for row in rows(folder) if "grad/norm/generator" in row
    ]


def last_validation(folder: Path) -> float:
    found = [float(row["val/loss"]) for row in rows(folder) if "val/loss" in row]
    return found[-1] if found else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--spec", default="incident.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--ways", nargs="*", default=["plain", "hpckit"])
    parser.add_argument("--also", nargs="*", default=[])
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--one", nargs="*")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(plain(given.spec, int(given.one[0]), given.one[1:])))
        return
    found: list[dict[str, Any]] = []

    def one(task: tuple[int, str, str]) -> None:
        seed, name, way = task
        changes = (*SETTINGS[name], *given.also)
        began = time.perf_counter()
        if way == "plain":
            command = [sys.executable, __file__, "--spec", given.spec, "--one", str(seed), *changes]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
        else:
            root = tempfile.mkdtemp(prefix="creative-agent-")
            result = healed(given.spec, seed, changes, root)
        row = {"seed": seed, "settings": name, "way": way, **result}
        found.append(row)
        took = time.perf_counter() - began
        print(
            f"seed {seed}, {name}, {way}: {summary(row)}; {took:.0f} s", file=sys.stderr, flush=True
        )
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))

    tasks = [
        (seed, name, way)
        for seed in range(given.first, given.first + given.seeds)
        for name in given.settings
        for way in given.ways
    ]
    with ThreadPoolExecutor(given.at_once) as pool:
        list(pool.map(one, tasks))


def summary(row: dict[str, Any]) -> str:
    text = f"loss {row['loss']:.4g}, largest norm {row['largest']:.3g} ({row['usual']:.2g} usual)"
    if row["way"] == "plain":
        return f"{text}, {row['worst']}, by epoch " + " ".join(
            f"{each:.3g}" for each in row["epochs"]
        )
    acted = [
        f"step {e['step']} {e['kind']} {e['plan']} {e['value'] or 0:.3g} {e['parameter']}"
        for e in row["incidents"]
    ]
    return f"{text}, {row['state']} {row['reason'][:300]}: " + "; ".join(acted)


if __name__ == "__main__":
    main()
